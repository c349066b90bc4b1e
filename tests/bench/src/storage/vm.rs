//! The VMs of the benchmark: what oned would say of them, and where their disks are.

use causeway_suite::front_end::{Ear, FrontEnd};

use super::Cluster;

/// Where they run.
pub const HOST: &str = "node1";
/// MiB of every disk.
pub const SIZE: u32 = 64;
/// Datastores: the images', the system's, the cluster's.
pub const IMAGES: u32 = 1;
pub const SYSTEM: u32 = 100;
pub const VOLUMES: u32 = 2;

/// A VM with a disk of each kind.
pub struct Vm<'a> {
    pub id: u32,
    pub site: &'a FrontEnd,
    pub cluster: Option<&'a Cluster>,
}

impl Vm<'_> {
    /// The VM's directory in the system datastore.
    pub fn home(&self) -> String {
        self.datastores(&format!("{SYSTEM}/{}", self.id))
    }

    /// One of its disks.
    pub fn disk(&self, number: u32) -> String {
        format!("{}/disk.{number}", self.home())
    }

    /// An image of files.
    pub fn image(&self, name: &str) -> String {
        self.datastores(&format!("{IMAGES}/{name}"))
    }

    fn datastores(&self, below: &str) -> String {
        self.site.var().join("datastores").join(below).display().to_string()
    }

    /// Its document, as oned gives it.
    pub fn document(&self) -> String {
        let id = self.id;
        let disk = |number: u32, format: &str, more: &str| {
            format!(
                "<DISK><DISK_ID>{number}</DISK_ID><FORMAT>{format}</FORMAT><SIZE>{SIZE}</SIZE>\
                 <ORIGINAL_SIZE>{SIZE}</ORIGINAL_SIZE><TM_MAD>qcow2</TM_MAD>{more}</DISK>"
            )
        };
        let of = |name: &str| {
            format!("<SOURCE>{}</SOURCE><CLONE>YES</CLONE><TARGET>vda</TARGET>", self.image(name))
        };
        let mut disks = disk(0, "qcow2", &of("layered")) + &disk(1, "raw", &of("plain"));
        disks += &disk(
            2,
            "qcow2",
            &format!("<SOURCE>{}</SOURCE><CLONE>NO</CLONE><PERSISTENT>YES</PERSISTENT>", self.image("kept")),
        );
        disks += &disk(3, "qcow2", "<TYPE>fs</TYPE>");
        disks += &disk(4, "raw", "<TYPE>CDROM</TYPE>");
        if let Some(cluster) = self.cluster {
            let access = cluster.attributes();
            let volume =
                format!("<SOURCE>{}</SOURCE><CLONE>YES</CLONE><TYPE>RBD</TYPE>{access}", cluster.source());
            disks += &disk(5, "raw", &volume).replace("<TM_MAD>qcow2", "<TM_MAD>ceph");
            disks += &disk(6, "raw", &format!("<TYPE>RBD</TYPE>{access}"))
                .replace("<TM_MAD>qcow2", "<TM_MAD>ceph");
        }
        format!(
            "<VM><ID>{id}</ID><STATE>3</STATE><LCM_STATE>1</LCM_STATE><DEPLOY_ID/><TEMPLATE>{disks}</TEMPLATE>\
             <HISTORY_RECORDS><HISTORY><SEQ>0</SEQ><HOSTNAME>node1</HOSTNAME><DS_ID>{SYSTEM}</DS_ID>\
             <VM_MAD>kvm</VM_MAD><TM_MAD>qcow2</TM_MAD></HISTORY></HISTORY_RECORDS></VM>"
        )
    }

    /// Tells oned's ear of it.
    pub fn announce(&self, ear: &Ear) {
        ear.tell("one.vm.info", self.id, &self.document());
    }
}

/// Tells oned's ear of the datastores, and of a host that is up.
pub fn announce_datastores(ear: &Ear, cluster: Option<&Cluster>) {
    let mut all = String::new();
    for id in [IMAGES, SYSTEM, VOLUMES] {
        let more = cluster.filter(|_| id == VOLUMES).map_or_else(String::new, |cluster| {
            format!("<BRIDGE_LIST>node1</BRIDGE_LIST>{}", cluster.attributes())
        });
        let kind = u32::from(id == SYSTEM);
        let datastore = format!(
            "<DATASTORE><ID>{id}</ID><NAME>ds{id}</NAME><TYPE>{kind}</TYPE><TEMPLATE>{more}</TEMPLATE></DATASTORE>"
        );
        ear.tell("one.datastore.info", id, &datastore);
        all += &datastore;
    }
    let hosts = "<HOST_POOL><HOST><ID>0</ID><NAME>node1</NAME><STATE>2</STATE></HOST></HOST_POOL>";
    ear.tell_all("one.hostpool.info", hosts);
    ear.tell_all("one.datastorepool.info", &format!("<DATASTORE_POOL>{all}</DATASTORE_POOL>"));
}
