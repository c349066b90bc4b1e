//! Requests for a guest of the lab: recorded documents with another VM in them, and its deployment file in the form in
//! which oned writes it (contract VMM 4).

use std::path::PathBuf;

use super::Request;
use crate::error::SuiteError;
use crate::xml::{Element, Node};

mod domain;
mod network;

pub use network::{Nic, Rule};

/// A recorded DEPLOY, the model of all requests here.
const MODEL: &str = include_str!("../../../data/requests/k-qcow2-01-create-deploy.deploy.xml");

/// oned's states of a VM (`LCM_STATE`) while each action is at work.
const BOOT: u32 = 2;
const MIGRATE: u32 = 4;
const SHUTDOWN: u32 = 12;
const CLEANUP: u32 = 23;
const RUNNING: u32 = 3;

/// A virtual machine of the lab.
#[derive(Debug, Clone)]
pub struct Guest {
    /// Its number.
    pub vm: u32,
    /// Its name, for people.
    pub name: String,
    /// `OS/UUID`: the deploy id that libvirt will give it.
    pub uuid: String,
    /// Memory, MiB.
    pub memory_mb: u32,
    /// Processors.
    pub vcpu: u32,
    /// The oned entry it belongs to: `kvm` or `qemu`.
    pub vm_mad: String,
    /// `qemu` where the guest is to be interpreted, `kvm` where it need not be.
    pub domain_type: String,
    /// The emulator on the hosts.
    pub emulator: String,
    /// The machine type.
    pub machine: String,
    /// The kernel, on the hosts.
    pub kernel: PathBuf,
    /// The initial file system, on the hosts.
    pub initrd: PathBuf,
    /// The kernel's command line.
    pub cmdline: String,
    /// A file on the hosts that gets what the guest says on its serial console.
    pub console: Option<PathBuf>,
    /// Its network.
    pub nic: Option<Nic>,
    /// The rules of its NIC's security groups, besides those of group 0, which lets everything pass.
    pub rules: Vec<Rule>,
    /// Its disks, numbered from 0.
    pub disks: Vec<Disk>,
    /// Whether it has a context image; its number follows those of the disks.
    pub context: bool,
    /// What is in that besides `context.sh`: files of the front-end, and their names inside.
    pub files: Vec<(PathBuf, String)>,
    /// Whether it has a port for an agent.
    pub agent: bool,
    /// The system datastore.
    pub datastore: Datastore,
    /// The front-end's `/var/lib/one`.
    pub front_end: PathBuf,
}

/// A disk.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Its image driver: `qcow2`, `shared`.
    pub tm_mad: String,
    /// `qcow2` or `raw`.
    pub format: String,
    /// The image's file on the front-end.
    pub source: PathBuf,
    /// The device in the guest.
    pub target: String,
    /// MiB.
    pub size_mb: u32,
    /// The image datastore.
    pub datastore_id: u32,
    /// Of a disk that is a volume, whose `source` is `POOL/IMAGE`: how its cluster is reached.
    pub cluster: Option<Access>,
}

/// How hosts and guests reach a Ceph cluster.
#[derive(Debug, Clone)]
pub struct Access {
    /// Its monitor (`CEPH_HOST`): `ADDRESS:PORT`.
    pub monitor: String,
    /// The user (`CEPH_USER`).
    pub user: String,
    /// The file with the user's key on the hosts (`CEPH_KEY`).
    pub key: String,
    /// The key's number in the hosts' libvirt (`CEPH_SECRET`).
    pub secret: String,
}

/// The system datastore.
#[derive(Debug, Clone)]
pub struct Datastore {
    /// Its number.
    pub id: u32,
    /// Its directory.
    pub base_path: PathBuf,
    /// Its driver.
    pub tm_mad: String,
    /// Whether all hosts see the same files.
    pub shared: bool,
}

impl Guest {
    /// The VM directory on the hosts.
    pub fn directory(&self) -> PathBuf {
        self.datastore.base_path.join(self.vm.to_string())
    }

    /// DEPLOY on `host`, with the deployment file.
    ///
    /// # Errors
    /// None that a caller can bring about.
    pub fn deploy(&self, host: &str) -> Result<Request, SuiteError> {
        let mut request = self.request("DEPLOY", host, host, BOOT)?;
        let local = self.front_end.join("vms").join(self.vm.to_string()).join("deployment.0");
        request.set("LOCAL_DEPLOYMENT_FILE", &local.display().to_string())?;
        request.set("REMOTE_DEPLOYMENT_FILE", &self.file("deployment.0"))?;
        if self.context {
            let (disk, vm, datastore) = (self.file(&self.context_disk()), self.vm, self.datastore.id);
            let script = self.front_end.join("vms").join(vm.to_string()).join("context.sh");
            let tm = &self.datastore.tm_mad;
            let file = |(path, name): &(PathBuf, String)| format!(" {}:'{name}'", path.display());
            let files: String = self.files.iter().map(file).collect();
            let command =
                format!("CONTEXT {tm} {}{files} {host}:{disk} {vm} {datastore}\n", script.display());
            request.set("TM_COMMAND", &command)?;
            request.set("DISK_TARGET_PATH", &disk)?;
        }
        request.deployment = Some(self.deployment());
        Ok(request)
    }

    /// MIGRATE from `source` to `destination`. The history record is the destination's already.
    ///
    /// # Errors
    /// As [`deploy`](Guest::deploy).
    pub fn migrate(&self, source: &str, destination: &str) -> Result<Request, SuiteError> {
        let mut request = self.running("MIGRATE", source, destination, MIGRATE)?;
        let directory = self.directory().display().to_string();
        let (tm, vm, datastore) = (&self.datastore.tm_mad, self.vm, self.datastore.id);
        request.set("MIGR_HOST", destination)?;
        request.set("DISK_TARGET_PATH", &directory)?;
        let command = format!("MIGRATE {tm} {source} {destination} {directory} {vm} {datastore}\n");
        request.set("TM_COMMAND", &command)?;
        Ok(request)
    }

    /// SHUTDOWN on `host`.
    ///
    /// # Errors
    /// As [`deploy`](Guest::deploy).
    pub fn shutdown(&self, host: &str) -> Result<Request, SuiteError> {
        self.running("SHUTDOWN", host, host, SHUTDOWN)
    }

    /// CANCEL on `host`.
    ///
    /// # Errors
    /// As [`deploy`](Guest::deploy).
    pub fn cancel(&self, host: &str) -> Result<Request, SuiteError> {
        self.running("CANCEL", host, host, SHUTDOWN)
    }

    /// CLEANUP on `host`, and on `before` where the VM was in a migration from there.
    ///
    /// # Errors
    /// As [`deploy`](Guest::deploy).
    pub fn cleanup(&self, host: &str, before: Option<&str>) -> Result<Request, SuiteError> {
        let mut request = self.running("CLEANUP", host, host, CLEANUP)?;
        request.set("MIGR_HOST", before.unwrap_or_default())?;
        let (vm, system) = (self.vm, self.datastore.id);
        let mut commands = String::new();
        for (id, disk) in self.disks.iter().enumerate() {
            let (tm, path) = (&disk.tm_mad, self.file(&format!("disk.{id}")));
            commands.push_str(&format!("DELETE {tm} {host}:{path} {vm} {}\n", disk.datastore_id));
        }
        let (tm, directory) = (&self.datastore.tm_mad, self.directory());
        commands.push_str(&format!("DELETE {tm} {host}:{} {vm} {system}\n", directory.display()));
        request.set("TM_COMMAND", &commands)?;
        Ok(request)
    }

    /// The script of the TRANSFER that oned sends to the transfer manager before a DEPLOY: one CLONE for each disk.
    pub fn prolog(&self, host: &str) -> String {
        let command = |(id, disk): (usize, &Disk)| {
            let path = self.file(&format!("disk.{id}"));
            let (source, vm) = (disk.source.display(), self.vm);
            format!("CLONE {} vm:{source} {host}:{path} {vm} {}\n", disk.tm_mad, disk.datastore_id)
        };
        self.disks.iter().enumerate().map(command).collect()
    }

    /// UPDATESG of a group on `host`, after a change of [`rules`](Guest::rules).
    ///
    /// # Errors
    /// As [`deploy`](Guest::deploy).
    pub fn update_sg(&self, host: &str, group: u32) -> Result<Request, SuiteError> {
        let mut request = self.running("UPDATESG", host, host, RUNNING)?;
        let id = Element::value("SECURITY_GROUP_ID", &group.to_string());
        request.document.nodes.push(Node::Element(id));
        Ok(request)
    }

    fn running(&self, action: &str, host: &str, history: &str, lcm: u32) -> Result<Request, SuiteError> {
        let mut request = self.request(action, host, history, lcm)?;
        request.set_deploy_id(&self.uuid)?;
        Ok(request)
    }

    /// The model with this guest in it and none of its commands.
    fn request(&self, action: &str, host: &str, history: &str, lcm: u32) -> Result<Request, SuiteError> {
        let document = super::parsed("the model of all requests", MODEL)?;
        let mut request = Request { action: action.to_owned(), vm: self.vm, document, deployment: None };
        let empty = ["LOCAL_DEPLOYMENT_FILE", "REMOTE_DEPLOYMENT_FILE", "DISK_TARGET_PATH"];
        for name in empty {
            request.set(name, "")?;
        }
        request.element("TM_COMMAND")?.nodes.clear();
        request.set("HOST", host)?;
        let (vm, lcm) = (self.vm.to_string(), lcm.to_string());
        let (datastore, shared) =
            (self.datastore.id.to_string(), if self.datastore.shared { "YES" } else { "NO" });
        let (memory, vcpu) = (self.memory_mb.to_string(), self.vcpu.to_string());
        let base_path = self.datastore.base_path.display().to_string();
        for (path, text) in [
            ("VM/ID", &vm),
            ("VM/NAME", &self.name),
            ("VM/LCM_STATE", &lcm),
            ("VM/PREV_LCM_STATE", &lcm),
            ("VM/TEMPLATE/MEMORY", &memory),
            ("VM/TEMPLATE/VCPU", &vcpu),
            ("VM/TEMPLATE/VMID", &vm),
            ("VM/TEMPLATE/OS/UUID", &self.uuid),
            ("VM/TEMPLATE/OS/MACHINE", &self.machine),
            ("VM/TEMPLATE/TM_MAD_SYSTEM", &self.datastore.tm_mad),
            ("VM/HISTORY_RECORDS/HISTORY/OID", &vm),
            ("VM/HISTORY_RECORDS/HISTORY/HOSTNAME", &history.to_owned()),
            ("VM/HISTORY_RECORDS/HISTORY/VM_MAD", &self.vm_mad),
            ("VM/HISTORY_RECORDS/HISTORY/TM_MAD", &self.datastore.tm_mad),
            ("VM/HISTORY_RECORDS/HISTORY/DS_ID", &datastore),
            ("DATASTORE/ID", &datastore),
            ("DATASTORE/TM_MAD", &self.datastore.tm_mad),
            ("DATASTORE/BASE_PATH", &base_path),
            ("DATASTORE/TEMPLATE/TM_MAD", &self.datastore.tm_mad),
            ("DATASTORE/TEMPLATE/SHARED", &shared.to_owned()),
        ] {
            request.set(path, text)?;
        }
        self.devices(request.element("VM/TEMPLATE")?);
        Ok(request)
    }

    /// Puts this guest's devices in the place of the model's.
    fn devices(&self, template: &mut Element) {
        let model = |node: &Node| match node {
            Node::Element(e) => ["CONTEXT", "DISK", "GRAPHICS", "NIC"].contains(&e.name.as_str()),
            Node::Text(_) | Node::Cdata(_) => false,
        };
        template.nodes.retain(|node| !model(node));
        let mut add = |name: &str, values: Vec<(&str, String)>| {
            let children =
                values.iter().map(|(name, text)| Node::Element(Element::value(name, text))).collect();
            let (name, attributes) = (name.to_owned(), String::new());
            template.nodes.push(Node::Element(Element { name, attributes, nodes: children, short: false }));
        };
        if self.context {
            let id = self.disks.len().to_string();
            add("CONTEXT", vec![("DISK_ID", id), ("TARGET", self.context_target().to_owned())]);
        }
        for (id, disk) in self.disks.iter().enumerate() {
            let text = |text: &str| text.to_owned();
            let kind = if disk.cluster.is_some() { "RBD" } else { "FILE" };
            let mut values = vec![
                ("CLONE", text("YES")),
                ("DATASTORE_ID", disk.datastore_id.to_string()),
                ("DISK_ID", id.to_string()),
                ("DISK_TYPE", text(kind)),
                ("DRIVER", disk.format.clone()),
                ("FORMAT", disk.format.clone()),
                ("READONLY", text("NO")),
                ("SAVE", text("NO")),
                ("SIZE", disk.size_mb.to_string()),
                ("SOURCE", disk.source.display().to_string()),
                ("TARGET", disk.target.clone()),
                ("TM_MAD", disk.tm_mad.clone()),
                ("TYPE", text(kind)),
            ];
            if let Some(access) = &disk.cluster {
                values.extend([
                    ("CEPH_HOST", access.monitor.clone()),
                    ("CEPH_KEY", access.key.clone()),
                    ("CEPH_SECRET", access.secret.clone()),
                    ("CEPH_USER", access.user.clone()),
                ]);
            }
            add("DISK", values);
        }
        if let Some(nic) = &self.nic {
            add("NIC", nic.values(self.vm));
        }
        for rule in &self.rules {
            add("SECURITY_GROUP_RULE", rule.values());
        }
    }

    fn file(&self, name: &str) -> String {
        self.directory().join(name).display().to_string()
    }

    fn context_disk(&self) -> String {
        format!("disk.{}", self.disks.len())
    }

    /// The CD-ROM's place: machines without SATA have IDE.
    fn context_target(&self) -> &'static str {
        if self.machine.contains("q35") { "sda" } else { "hda" }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::document::{Envelope, parse};

    fn guest() -> Guest {
        Guest {
            vm: 17,
            name: "lab".to_owned(),
            uuid: "00000000-0000-4000-9000-000000000017".to_owned(),
            memory_mb: 192,
            vcpu: 1,
            vm_mad: "qemu".to_owned(),
            domain_type: "qemu".to_owned(),
            emulator: "/usr/bin/qemu-kvm-one".to_owned(),
            machine: "pc".to_owned(),
            kernel: "/lab/vmlinux".into(),
            initrd: "/lab/initrd.gz".into(),
            cmdline: "console=ttyS0 ip4=10.9.0.17/24".to_owned(),
            console: Some("/var/lib/one/datastores/0/console".into()),
            nic: Some(Nic {
                vn_mad: "vxlan".to_owned(),
                mac: "02:00:0a:09:00:11".to_owned(),
                ip: "10.9.0.17".to_owned(),
                bridge: "onebr.100".to_owned(),
                phydev: "eth0".to_owned(),
                vni: 100,
                mtu: Some(1500),
                more: vec![("FILTER_MAC_SPOOFING".to_owned(), "YES".to_owned())],
            }),
            rules: Vec::new(),
            disks: vec![Disk {
                tm_mad: "qcow2".to_owned(),
                format: "qcow2".to_owned(),
                source: "/var/lib/one/datastores/1/abc".into(),
                target: "vda".to_owned(),
                size_mb: 16,
                datastore_id: 1,
                cluster: None,
            }],
            context: true,
            files: Vec::new(),
            agent: false,
            datastore: Datastore {
                id: 0,
                base_path: "/var/lib/one/datastores/0".into(),
                tm_mad: "qcow2".to_owned(),
                shared: true,
            },
            front_end: "/var/lib/one".into(),
        }
    }

    #[test]
    fn the_requests_say_what_the_guest_is() {
        let guest = guest();
        let read = |request: &Request| Envelope::parse(request.render().as_bytes()).unwrap();
        let deploy = guest.deploy("h1").unwrap();
        let envelope = read(&deploy);
        assert_eq!((envelope.host.as_str(), envelope.vm.id.0), ("h1", 17));
        let nic = &envelope.vm.nics[0];
        assert!(nic.is("vxlan") && nic.filter_mac_spoofing);
        assert_eq!((nic.vni().unwrap().get(), nic.mtu), (100, Some(1500)));
        assert_eq!(envelope.vm.disks[0].size_mb, Some(16));
        assert_eq!(envelope.vm.context.unwrap().target.as_deref(), Some("hda"));
        let context =
            "CONTEXT qcow2 /var/lib/one/vms/17/context.sh h1:/var/lib/one/datastores/0/17/disk.1 17 0";
        assert_eq!(envelope.tm_command[0].to_string(), context);
        let domain = parse(deploy.deployment.unwrap().as_bytes()).unwrap();
        assert_eq!(domain.value("uuid").unwrap(), guest.uuid);

        let migrate = read(&guest.migrate("h1", "h2").unwrap());
        assert_eq!(migrate.deploy_id.unwrap().as_str(), guest.uuid);
        assert_eq!(migrate.migr_host.unwrap().as_str(), "h2");
        assert_eq!(migrate.vm.history.hostname.unwrap().as_str(), "h2");
        assert_eq!(
            migrate.tm_command[0].to_string(),
            "MIGRATE qcow2 h1 h2 /var/lib/one/datastores/0/17 17 0"
        );

        let cleanup = read(&guest.cleanup("h2", Some("h1")).unwrap());
        assert_eq!(cleanup.tm_command.len(), 2);
        assert_eq!(read(&guest.shutdown("h2").unwrap()).tm_command.len(), 0);
        assert_eq!(guest.cancel("h2").unwrap().action, "CANCEL");
        let clone =
            "CLONE qcow2 vm:/var/lib/one/datastores/1/abc h1:/var/lib/one/datastores/0/17/disk.0 17 1\n";
        assert_eq!(guest.prolog("h1"), clone);
    }

    #[test]
    fn a_nic_of_open_vswitch_and_its_groups_are_told() {
        let mut guest = guest();
        let nic = guest.nic.as_mut().unwrap();
        nic.vn_mad = "ovswitch".to_owned();
        nic.more.push(("SECURITY_GROUPS".to_owned(), "100".to_owned()));
        guest.rules.push(Rule { group: 100, direction: "INBOUND", protocol: "TCP", range: Some("7,9:10") });
        let update = guest.update_sg("h1", 100).unwrap();
        let envelope = Envelope::parse(update.render().as_bytes()).unwrap();
        assert_eq!(envelope.security_group_id, Some(100));
        let nic = &envelope.vm.nics[0];
        assert!(nic.is("ovswitch") && nic.security_groups == [100]);
        let of_group = |rule: &&causeway_core::document::SecurityGroupRule| rule.security_group_id == 100;
        assert_eq!(envelope.vm.security_group_rules.iter().filter(of_group).count(), 1);
        let domain = guest.deployment();
        assert!(domain.contains("<virtualport type='openvswitch'/>"), "{domain}");
        assert!(parse(domain.as_bytes()).is_ok());
    }

    #[test]
    fn a_volume_and_files_for_the_guest_are_told() {
        let mut guest = guest();
        guest.files = vec![("/var/lib/one/datastores/2/abc".into(), "A name".to_owned())];
        let access = Access {
            monitor: "10.0.0.1:3300".to_owned(),
            user: "one".to_owned(),
            key: "/etc/ceph/one.key".to_owned(),
            secret: "00000000-0000-4000-9000-0000000000ff".to_owned(),
        };
        guest.disks[0].source = "one/one-5".into();
        guest.disks[0].cluster = Some(access);
        guest.agent = true;
        let deploy = guest.deploy("h1").unwrap();
        let envelope = Envelope::parse(deploy.render().as_bytes()).unwrap();
        let context = envelope.tm_command[0].to_string();
        assert!(context.contains(" /var/lib/one/datastores/2/abc:'A name' h1:/"), "{context}");
        assert_eq!(deploy.document.find("VM/TEMPLATE/DISK/CEPH_USER").unwrap().text(), "one");
        let domain = deploy.deployment.unwrap();
        assert!(domain.contains("<source protocol='rbd' name='one/one-5-17-0'>"), "{domain}");
        assert!(domain.contains("<host name='10.0.0.1' port='3300'/>"), "{domain}");
        assert!(parse(domain.as_bytes()).is_ok());
    }
}
