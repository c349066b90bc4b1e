//! The `.ssh` forms of `ceph`: the VM's disk is a plain file on its host's own disk (contract TM 2.2).

use causeway_core::names::HostName;

use super::super::live::Live;
use super::{Planner, RbdCall, RbdWork, Time, Transfer, one, step};
use crate::error::TmError;
use crate::facts::{Needs, VmNeed, lcm};
use crate::host::{Call, CopyOf, Kept};
use crate::place::VmFile;
use crate::request::{Request, Source, Verb};

/// What must be known before a plan can be made.
pub(super) fn needs(request: &Request) -> Needs {
    let mut needs = Needs::default();
    match request {
        Request::Give { file, .. }
        | Request::Mvds { file, .. }
        | Request::Resize { file, .. }
        | Request::Cpds { file, .. } => needs.vm = Some(VmNeed::Document(file.dir().vm())),
        _ => {}
    }
    if let Request::Cpds { image_datastore, .. } = request {
        needs.datastores.insert(*image_datastore);
    }
    needs
}

impl Planner<'_> {
    pub(super) fn local(&self, request: Request) -> Result<Transfer, TmError> {
        match request {
            Request::Give { image, host, file, .. } => self.fetch(&image, host, &file),
            Request::Mvds { host, file, image } => {
                let work = RbdWork::TakeBack { file: file.clone(), image: image.volume()? };
                self.step(&file, host, work, Time::Copy).map(one)
            }
            Request::Cpds { host, file, image, snapshot, image_datastore } => {
                self.save_file(host, &file, &image, snapshot, image_datastore)
            }
            // The file only. The stock driver leaves it until the VM ends (W20), and its number is given out again.
            Request::DeleteFile { host, file, .. } => {
                let (name, call) = (self.named(&file), Call::DeleteFile { file });
                step(name, host, &call, self.settings, false).map(one)
            }
            Request::Resize { host, file, size_mb } => {
                let vm = self.vm(file.dir())?;
                if vm.lcm_state()? == lcm::DISK_RESIZE {
                    return self.nothing(&file, host, "the disk is in use: its hypervisor grows it");
                }
                let sparse = self.disk(&file)?.1.sparse;
                let name = self.named(&file);
                let call = Call::Resize { file, kept: Kept::Beside, qcow2: false, size_mb, sparse };
                step(name, host, &call, self.settings, true).map(one)
            }
            _ => Err(TmError::NotBuilt { slot: self.slot.to_string() }),
        }
    }

    fn fetch(&self, image: &Source, host: HostName, file: &VmFile) -> Result<Transfer, TmError> {
        let (image, disk) = (image.volume()?, self.disk(file)?.1);
        let persistent = self.verb == Verb::Ln;
        let grown_mb = if persistent { None } else { disk.grown_mb() };
        let work = RbdWork::Fetch { image, file: file.clone(), persistent, grown_mb };
        self.step(file, host, work, Time::Copy).map(one)
    }

    fn save_file(
        &self,
        host: HostName,
        file: &VmFile,
        image: &Source,
        snapshot: Option<u32>,
        datastore: u32,
    ) -> Result<Transfer, TmError> {
        let (vm, disk) = self.disk(file)?;
        if let Some(id) = snapshot {
            return Err(TmError::Refused {
                what: file.to_string(),
                why: format!(
                    "snapshot {id} can't become an image: a disk on a host's own disk has none in the cluster; save \
                     the disk itself"
                ),
            });
        }
        let image = image.volume()?;
        let data_pool = self.data_pool(datastore)?;
        let copied = vm.lcm_state()? == lcm::HOTPLUG_SAVEAS;
        let work = RbdWork::SaveFile { file: file.clone(), copied, image, data_pool };
        let saved = |name: String| {
            let call = RbdCall { cluster: disk.ceph.cluster(&super::object(vm, disk))?, vm: vm.id, work };
            self.timed(name, host.clone(), call, Time::Copy)
        };
        if !copied {
            return saved(self.named(file)).map(one);
        }
        // Its hypervisor copies it beside while the guest goes on (W42), and the copy becomes the image.
        let at = (host.clone(), file.clone());
        let live = Live::of("cpds", vm, at, (Kept::Beside, false), self.settings)?;
        let mut steps = live.filled(&CopyOf::Volume)?;
        steps.push(saved(format!("{}:volume", self.named(file)))?);
        Ok(Transfer { steps, ..Transfer::default() })
    }
}
