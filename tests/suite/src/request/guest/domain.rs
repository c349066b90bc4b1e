//! The deployment file of a guest of the lab: a domain as oned writes it.

use std::path::Path;

use super::{Disk, Guest};
use crate::xml::escape;

/// What a NIC on Open vSwitch has. Its data path in user space takes frames from the device as they are: a checksum that is left
/// to the host would never be written.
const SWITCHED: &str = "\t\t\t<virtualport type='openvswitch'/>\n\
    \t\t\t<driver><host csum='off' gso='off' tso4='off' tso6='off' ecn='off' ufo='off'/>\
    <guest csum='off' tso4='off' tso6='off' ecn='off' ufo='off'/></driver>\n";

impl Guest {
    /// The deployment file.
    pub fn deployment(&self) -> String {
        let (kind, vm, title, uuid) = (&self.domain_type, self.vm, &self.name, &self.uuid);
        let (vcpu, memory) = (self.vcpu, u64::from(self.memory_mb) * 1024);
        format!(
            "<domain type='{kind}' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\n\
             \t<name>one-{vm}</name>\n\t<title>{title}</title>\n\t<uuid>{uuid}</uuid>\n\
             \t<vcpu><![CDATA[{vcpu}]]></vcpu>\n\t<cputune>\n\t\t<shares>103</shares>\n\t</cputune>\n\
             \t<memory>{memory}</memory>\n{system}\
             \t<on_reboot>destroy</on_reboot>\n\t<on_crash>destroy</on_crash>\n\
             \t<devices>\n{devices}\t</devices>\n{metadata}</domain>\n",
            system = self.system(),
            devices = self.hardware(),
            metadata = self.metadata(),
        )
    }

    /// What the domain boots, and on what.
    fn system(&self) -> String {
        format!(
            "\t<os>\n\t\t<type arch='x86_64' machine='{}'>hvm</type>\n\t\t<kernel>{}</kernel>\n\
             \t\t<initrd>{}</initrd>\n\t\t<cmdline><![CDATA[{}]]></cmdline>\n\t</os>\n\
             \t<features>\n\t\t<acpi/>\n{}\t</features>\n{}",
            self.machine,
            cdata(&self.kernel),
            cdata(&self.initrd),
            self.cmdline,
            self.interpreter("\t\t<tcg><tb-cache unit='MiB'>32</tb-cache></tcg>\n"),
            self.interpreter(
                "\t<cpu mode='custom' match='exact' check='none'><model fallback='allow'>qemu64</model></cpu>\n"
            ),
        )
    }

    /// The domain's devices.
    fn hardware(&self) -> String {
        let mut devices = format!("\t\t<emulator><![CDATA[{}]]></emulator>\n", self.emulator);
        for (id, disk) in self.disks.iter().enumerate() {
            let (kind, source) = self.source(id, disk);
            let (target, format) = (&disk.target, &disk.format);
            devices.push_str(&format!(
                "\t\t<disk type='{kind}' device='disk'>\n{source}\t\t\t<target dev='{target}'/>\n\
                 \t\t\t<driver name='qemu' type='{format}' cache='none'/>\n\t\t</disk>\n"
            ));
        }
        if self.context {
            let (path, target) = (self.file(&self.context_disk()), self.context_target());
            let bus = if target == "sda" { "sata" } else { "ide" };
            devices.push_str(&format!(
                "\t\t<disk type='file' device='cdrom'>\n\t\t\t<source file='{path}'/>\n\
                 \t\t\t<target dev='{target}' bus='{bus}'/>\n\t\t\t<readonly/>\n\
                 \t\t\t<driver name='qemu' type='raw' cache='none'/>\n\t\t</disk>\n"
            ));
        }
        if let Some(nic) = &self.nic {
            devices.push_str(&format!(
                "\t\t<interface type='bridge'>\n\t\t\t<source bridge='{}'/>\n\t\t\t<mac address='{}'/>\n\
                 \t\t\t<target dev='one-{}-0'/>\n\t\t\t<model type='virtio'/>\n\t\t\t<rom enabled='no'/>\n\
                 {}\t\t</interface>\n",
                nic.bridge,
                nic.mac,
                self.vm,
                if nic.is_switched() { SWITCHED } else { "" },
            ));
        }
        if let Some(console) = &self.console {
            let path = escape(&console.display().to_string());
            devices.push_str(&format!(
                "\t\t<serial type='file'><source path='{path}'/><target port='0'/></serial>\n"
            ));
        }
        if self.agent {
            devices.push_str(
                "\t\t<channel type='unix'>\n\t\t\t<source mode='bind'/>\n\
                 \t\t\t<target type='virtio' name='org.qemu.guest_agent.0'/>\n\t\t</channel>\n",
            );
        }
        devices.push_str("\t\t<controller type='usb' model='none'/>\n\t\t<memballoon model='none'/>\n");
        devices
    }

    /// What a disk is to libvirt, and where.
    fn source(&self, id: usize, disk: &Disk) -> (&'static str, String) {
        let Some(access) = &disk.cluster else {
            return ("file", format!("\t\t\t<source file='{}'/>\n", self.file(&format!("disk.{id}"))));
        };
        let name = format!("{}-{}-{id}", disk.source.display(), self.vm);
        let (host, port) = access.monitor.split_once(':').unwrap_or((&access.monitor, "6789"));
        let source = format!(
            "\t\t\t<source protocol='rbd' name='{name}'>\n\t\t\t\t<host name='{host}' port='{port}'/>\n\
             \t\t\t</source>\n\t\t\t<auth username='{}'>\n\t\t\t\t<secret type='ceph' uuid='{}'/>\n\t\t\t</auth>\n",
            access.user, access.secret
        );
        ("network", source)
    }

    /// By what the VM directory and the VM are found from the domain.
    fn metadata(&self) -> String {
        format!(
            "\t<metadata>\n\t\t<one:vm xmlns:one=\"http://opennebula.org/xmlns/libvirt/1.0\">\n\
             \t\t\t<one:system_datastore>{directory}</one:system_datastore>\n\
             \t\t\t<one:name><![CDATA[{name}]]></one:name>\n\t\t\t<one:uname><![CDATA[oneadmin]]></one:uname>\n\
             \t\t\t<one:uid>0</one:uid>\n\t\t\t<one:gname><![CDATA[oneadmin]]></one:gname>\n\
             \t\t\t<one:gid>0</one:gid>\n\t\t\t<one:opennebula_version>7.4.0</one:opennebula_version>\n\
             \t\t\t<one:pci_devices></one:pci_devices>\n\t\t</one:vm>\n\t</metadata>\n",
            directory = cdata(&self.directory()),
            name = self.name,
        )
    }

    /// Parts that only an interpreted guest has. An admin would give them as RAW data: QEMU's translation cache is a
    /// gigabyte by default, more than all guests of a lab together.
    fn interpreter(&self, part: &'static str) -> &'static str {
        if self.domain_type == "qemu" { part } else { "" }
    }
}

fn cdata(path: &Path) -> String {
    format!("<![CDATA[{}]]>", path.display())
}
