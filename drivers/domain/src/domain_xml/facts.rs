//! What the drivers want to know of a domain.

use causeway_core::names::{DiskPath, LinkName, Mac};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::XmlError;
use super::tree::{Element, parse};

/// The namespace of OpenNebula's metadata (`LIBVIRT_MD_URI` of `kvmrc`).
pub const METADATA_NAMESPACE: &str = "http://opennebula.org/xmlns/libvirt/1.0";

/// The facts of one domain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Facts {
    /// The domain's type: `kvm`, `qemu`, or `test` for libvirt's test driver.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its UUID, absent where libvirt is to choose one.
    pub uuid: Option<Uuid>,
    /// Bytes of RAM.
    pub memory: u64,
    /// Most virtual CPUs.
    pub vcpus: u32,
    /// The emulator's path, where one is named.
    pub emulator: Option<String>,
    /// The machine type, where one is named.
    pub machine: Option<String>,
    /// The file of the firmware's variables.
    pub nvram: Option<Nvram>,
    /// Whether the guest has an emulated TPM.
    pub emulated_tpm: bool,
    /// Whether the guest can be asked to shut down by ACPI.
    pub acpi: bool,
    /// Host devices passed through.
    pub hostdevs: usize,
    /// All disks, in document order.
    pub disks: Vec<Disk>,
    /// All network interfaces, in document order.
    pub interfaces: Vec<Interface>,
    /// OpenNebula's metadata.
    pub metadata: Option<Metadata>,
}

/// `os/nvram`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nvram {
    /// The file.
    pub path: String,
    /// What it is made from.
    pub template: Option<String>,
    /// Its format; libvirt's default is `raw`.
    pub format: Option<String>,
}

/// Where a disk's bytes lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// A file, as the XML spells it.
    File(String),
    /// A block device, as the XML spells it.
    Block(String),
    /// A network volume.
    Network {
        /// `rbd`, `iscsi`, ...
        protocol: String,
        /// `pool/image` for `rbd`.
        name: String,
    },
    /// An empty drive.
    Empty,
    /// Another type of disk.
    Other(String),
}

/// A disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// `disk`, `cdrom`, ...
    pub device: String,
    /// Where its bytes lie.
    pub source: Source,
    /// Its name in the guest, such as `vda`.
    pub target: String,
    /// `qcow2`, `raw`, ...
    pub format: Option<String>,
    /// QEMU's cache mode, where one is named.
    pub cache: Option<String>,
    /// The guest may not write it.
    pub readonly: bool,
    /// Several guests may write it.
    pub shareable: bool,
}

/// A network interface.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `bridge`, `ethernet`, `vhostuser`, ...
    pub kind: String,
    /// Its address.
    pub mac: Option<Mac>,
    /// Its device on the host (the tap). Inactive domains may have none.
    pub target: Option<LinkName>,
    /// The bridge it is plugged into.
    pub bridge: Option<LinkName>,
    /// The type of its virtual port, such as `openvswitch`.
    pub virtualport: Option<String>,
}

/// OpenNebula's metadata, as far as the drivers use them.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Metadata {
    /// The VM's directory in its system datastore.
    pub system_datastore: Option<DiskPath>,
    /// The VM's name.
    pub name: Option<String>,
    /// The release of OpenNebula that deployed it.
    pub opennebula_version: Option<String>,
}

/// Reads a domain's facts.
///
/// # Errors
/// Not well-formed, over a cap, or a known element that does not have its form.
pub fn facts(xml: &str) -> Result<Facts, XmlError> {
    let root = parse(xml)?;
    if root.name != "domain" {
        return Err(XmlError::NotADomain(root.name.to_string()));
    }
    let name = root.child_text("name").filter(|n| !n.is_empty());
    let os = root.child("os");
    Ok(Facts {
        kind: root.value("type").unwrap_or_default().to_owned(),
        name: name.ok_or(XmlError::Missing("name"))?.to_owned(),
        uuid: root.child_text("uuid").map(uuid).transpose()?,
        memory: memory(root.child("memory").ok_or(XmlError::Missing("memory"))?)?,
        vcpus: match root.child_text("vcpu") {
            Some(text) => number("vcpu", text)?,
            None => 1,
        },
        emulator: root.children("devices").find_map(|d| d.child_text("emulator")).map(str::to_owned),
        machine: os.and_then(|os| os.child("type")).and_then(|t| t.value("machine")).map(str::to_owned),
        nvram: os.and_then(|os| os.child("nvram")).and_then(nvram),
        emulated_tpm: root
            .grandchildren("devices", "tpm")
            .any(|t| t.child("backend").and_then(|b| b.value("type")) == Some("emulator")),
        acpi: root.grandchildren("features", "acpi").next().is_some(),
        hostdevs: root.grandchildren("devices", "hostdev").count(),
        disks: root.grandchildren("devices", "disk").map(disk).collect(),
        interfaces: root.grandchildren("devices", "interface").map(interface).collect::<Result<_, _>>()?,
        metadata: root
            .children("metadata")
            .find_map(|m| find_metadata(m, root.value("xmlns:one")))
            .map(read_metadata)
            .transpose()?,
    })
}

/// Reads OpenNebula's metadata element alone, as `virDomainGetMetadata` gives it.
///
/// libvirt has matched the namespace by then, and gives the element without it: `<vm><system_datastore>...`.
///
/// # Errors
/// As [`facts`].
pub fn metadata(xml: &str) -> Result<Metadata, XmlError> {
    read_metadata(&parse(xml)?)
}

fn find_metadata<'e, 'a>(parent: &'e Element<'a>, outer: Option<&str>) -> Option<&'e Element<'a>> {
    parent.children.iter().find(|element| {
        let (prefix, local) = split_name(&element.name);
        let declaration = match prefix {
            Some(prefix) => format!("xmlns:{prefix}"),
            None => "xmlns".to_owned(),
        };
        let inherited = outer.filter(|_| prefix == Some("one"));
        let namespace = element.value(&declaration).or_else(|| parent.value(&declaration)).or(inherited);
        local == "vm" && namespace == Some(METADATA_NAMESPACE)
    })
}

fn read_metadata(element: &Element<'_>) -> Result<Metadata, XmlError> {
    let text = |wanted: &str| {
        let found = element.children.iter().find(|c| split_name(&c.name).1 == wanted)?;
        Some(found.text.trim()).filter(|t| !t.is_empty())
    };
    let system_datastore = text("system_datastore").map(|path| {
        path.parse().map_err(|_| XmlError::Value {
            what: "system_datastore",
            value: path.to_owned(),
            accepted: "an absolute path",
        })
    });
    Ok(Metadata {
        system_datastore: system_datastore.transpose()?,
        name: text("name").map(str::to_owned),
        opennebula_version: text("opennebula_version").map(str::to_owned),
    })
}

fn split_name(name: &str) -> (Option<&str>, &str) {
    match name.split_once(':') {
        Some((prefix, local)) => (Some(prefix), local),
        None => (None, name),
    }
}

fn uuid(text: &str) -> Result<Uuid, XmlError> {
    Uuid::parse_str(text).map_err(|_| XmlError::Value {
        what: "uuid",
        value: text.to_owned(),
        accepted: "a UUID",
    })
}

pub(super) fn number<T: std::str::FromStr>(what: &'static str, text: &str) -> Result<T, XmlError> {
    text.parse().map_err(|_| XmlError::Value { what, value: text.to_owned(), accepted: "a number" })
}

/// Bytes of a memory element. libvirt's default unit is KiB; the short letters are binary, `KB` and so on decimal.
fn memory(element: &Element<'_>) -> Result<u64, XmlError> {
    let text = element.text.trim();
    let amount: u64 = number("memory", text)?;
    let unit = element.value("unit").unwrap_or("KiB");
    let factor: u64 = match unit {
        "b" | "bytes" => 1,
        "KB" => 1_000,
        "k" | "KiB" => 1 << 10,
        "MB" => 1_000_000,
        "M" | "MiB" => 1 << 20,
        "GB" => 1_000_000_000,
        "G" | "GiB" => 1 << 30,
        "TB" => 1_000_000_000_000,
        "T" | "TiB" => 1 << 40,
        _ => 0,
    };
    match amount.checked_mul(factor) {
        Some(bytes) if factor > 0 => Ok(bytes),
        _ => Err(XmlError::Value {
            what: "memory",
            value: format!("{text} {unit}"),
            accepted: "an amount with one of libvirt's units",
        }),
    }
}

fn nvram(element: &Element<'_>) -> Option<Nvram> {
    // libvirt 8.5 and later may write the file as a <source> element instead of text.
    let path = match element.child("source").and_then(|s| s.value("file")) {
        Some(file) => file,
        None => element.text.trim(),
    };
    (!path.is_empty()).then(|| Nvram {
        path: path.to_owned(),
        template: element.value("template").map(str::to_owned),
        format: element.value("format").map(str::to_owned),
    })
}

fn disk(element: &Element<'_>) -> Disk {
    let driver = element.child("driver");
    let driver_value = |name: &str| driver.and_then(|d| d.value(name)).map(str::to_owned);
    Disk {
        device: element.value("device").unwrap_or("disk").to_owned(),
        source: source(element),
        target: element.child("target").and_then(|t| t.value("dev")).unwrap_or_default().to_owned(),
        format: driver_value("type"),
        cache: driver_value("cache"),
        readonly: element.child("readonly").is_some(),
        shareable: element.child("shareable").is_some(),
    }
}

/// The source of a disk, or of one layer of its chain, which has the same form.
pub(super) fn source(element: &Element<'_>) -> Source {
    let source = element.child("source");
    let of = |attribute: &str| source.and_then(|s| s.value(attribute)).map(str::to_owned);
    match (element.value("type").unwrap_or("file"), of("file"), of("dev"), of("name")) {
        ("file", Some(file), _, _) => Source::File(file),
        ("block", _, Some(dev), _) => Source::Block(dev),
        ("network", _, _, name) => {
            Source::Network { protocol: of("protocol").unwrap_or_default(), name: name.unwrap_or_default() }
        }
        ("file" | "block", ..) => Source::Empty,
        (other, ..) => Source::Other(other.to_owned()),
    }
}

fn interface(element: &Element<'_>) -> Result<Interface, XmlError> {
    let of = |child: &str, attribute: &str| element.child(child).and_then(|c| c.value(attribute));
    let link = |what: &'static str, text: Option<&str>| {
        let parsed = text.map(|t| {
            t.parse::<LinkName>().map_err(|e| XmlError::Value {
                what,
                value: t.to_owned(),
                accepted: e.accepted,
            })
        });
        parsed.transpose()
    };
    let mac = of("mac", "address").map(|t| {
        t.parse::<Mac>().map_err(|e| XmlError::Value {
            what: "mac address",
            value: t.to_owned(),
            accepted: e.accepted,
        })
    });
    Ok(Interface {
        kind: element.value("type").unwrap_or_default().to_owned(),
        mac: mac.transpose()?,
        target: link("interface target", of("target", "dev"))?,
        bridge: link("bridge", of("source", "bridge"))?,
        virtualport: of("virtualport", "type").map(str::to_owned),
    })
}
