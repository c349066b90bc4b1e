//! The actions of a Ceph datastore: which call does them, and how its images are named (contract TM 2.2, 3.2).

use causeway_core::names::{DiskPath, HostName, NameError};

use super::plan::Front;
use super::{Request, Verb};
use crate::error::TmError;
use crate::host::{Call, DatastoreCall, Fetch, ImageOrder, Origin};
use crate::rbd::{ImageCall, ImageWork, New, PoolName, Volume};
use crate::settings::TmSettings;

impl Request {
    fn object(&self) -> String {
        format!("datastore {}", self.document.datastore.id)
    }

    /// What a Ceph datastore must say in every case.
    pub(super) fn check_volumes(&self) -> Result<(), TmError> {
        let named = self.verb == Verb::Mkfs && self.document.image()?.is_save_as();
        if self.verb == Verb::Stat || named || !self.document.datastore.bridges.is_empty() {
            return Ok(());
        }
        Err(TmError::Missing { what: "BRIDGE_LIST".to_owned(), object: self.object() })
    }

    fn pool(&self, settings: &TmSettings) -> Result<PoolName, TmError> {
        let named = self.document.datastore.ceph.pool(&self.object())?;
        Ok(named.unwrap_or_else(|| settings.ceph.pool.clone()))
    }

    /// The volume of a new image (contract TM 2.2, *Naming*).
    pub(super) fn own_volume(&self, settings: &TmSettings) -> Result<Volume, TmError> {
        Ok(Volume::image(&self.pool(settings)?, self.id))
    }

    /// `SOURCE`, which must be a volume of this datastore's pool.
    fn stored_volume(&self, settings: &TmSettings) -> Result<Volume, TmError> {
        let (volume, pool) = (self.document.image()?.volume("SOURCE")?, self.pool(settings)?);
        if *volume.pool() == pool {
            return Ok(volume);
        }
        Err(TmError::Attribute {
            attribute: "SOURCE".to_owned(),
            object: format!("image {}", self.id),
            value: volume.to_string(),
            accepted: format!("a volume of pool {pool}, which datastore {} is", self.document.datastore.id)
                .into(),
        })
    }

    pub(super) fn volume_call(&self, front: &Front, settings: &TmSettings) -> Result<Call, TmError> {
        let (ceph, object) = (&self.document.datastore.ceph, self.object());
        let cluster = ceph.cluster(&object)?;
        let trash = ceph.trash(&object)?.unwrap_or(settings.ceph.trash);
        let snapshot = |order| {
            Ok::<_, TmError>(ImageWork::Snapshot { order, id: self.document.image()?.target_snapshot()? })
        };
        let work = match self.verb {
            Verb::Monitor | Verb::System => {
                let (pool, disks) = (self.pool(settings)?, self.document.vm_disks);
                return Ok(Call::PoolUsage { cluster, pool, disks });
            }
            Verb::Stat => {
                let nothing = || Call::Nothing { reason: "its address tells its size".to_owned() };
                return Ok(self.measure(front)?.map_or_else(nothing, Call::Datastore));
            }
            Verb::Mkfs if self.document.image()?.is_save_as() => {
                let reason = "only a name is chosen: a disk will be saved under it".to_owned();
                // What it would be refused for then is better refused now.
                self.registration(settings)?;
                return Ok(Call::Nothing { reason });
            }
            Verb::Cp => self.import_volume(front, settings)?,
            Verb::Clone => ImageWork::Copy {
                original: self.document.image()?.volume("PATH")?,
                new: self.registration(settings)?,
            },
            Verb::Mkfs => self.make_volume(settings)?,
            Verb::Rm if !self.document.image()?.has_source() => {
                // What a `cp` made whose end nobody learnt of.
                ImageWork::Remove { trash, registered: Some(self.document.image()?.registered()?) }
            }
            Verb::Rm => ImageWork::Remove { trash, registered: None },
            Verb::SnapDelete => snapshot(ImageOrder::Delete)?,
            Verb::SnapRevert => snapshot(ImageOrder::Revert)?,
            Verb::SnapFlatten => snapshot(ImageOrder::Flatten)?,
            Verb::Export => {
                // Refused before anything is read, where it could not be told.
                self.address_of(&self.stored_volume(settings)?, "HOST")?;
                ImageWork::Sum
            }
        };
        let new = self.verb.makes() || matches!(work, ImageWork::Remove { registered: Some(_), .. });
        let image = if new { self.own_volume(settings)? } else { self.stored_volume(settings)? };
        Ok(Call::Datastore(DatastoreCall::Volume(Box::new(ImageCall { cluster, image, work }))))
    }

    fn registration(&self, settings: &TmSettings) -> Result<New, TmError> {
        let (ceph, object) = (&self.document.datastore.ceph, self.object());
        ceph.check_format(&object, &settings.ceph.format)?;
        Ok(New { registered: self.document.image()?.registered()?, data_pool: ceph.data_pool(&object)? })
    }

    fn import_volume(&self, front: &Front, settings: &TmSettings) -> Result<ImageWork, TmError> {
        let datastore = &self.document.datastore;
        let as_it_is = |fetch: Fetch| Fetch { decompress: false, ..fetch };
        // It is unpacked where it becomes a volume: what it is shows in what is packed (W32).
        let origin = match self.origin(front, settings)? {
            Origin::File { path, dirs, checksum, .. } => Origin::File { path, dirs, unpack: None, checksum },
            Origin::Address { fetch, checksum } => Origin::Address { fetch: as_it_is(fetch), checksum },
            other => other,
        };
        let unpack = !datastore.no_decompress.unwrap_or(false);
        Ok(ImageWork::Import {
            origin,
            unpack,
            staging: self.staging(settings)?,
            new: self.registration(settings)?,
        })
    }

    fn make_volume(&self, settings: &TmSettings) -> Result<ImageWork, TmError> {
        let image = self.document.image()?;
        Ok(ImageWork::Make {
            size_mb: image.size_mb()?,
            blank: self.blank_of(image, settings)?,
            staging: self.staging(settings)?,
            new: self.registration(settings)?,
        })
    }

    /// `STAGING_DIR` of the datastore, else that of all.
    fn staging(&self, settings: &TmSettings) -> Result<std::path::PathBuf, TmError> {
        let Some(text) = &self.document.datastore.staging else { return Ok(settings.ceph.staging.clone()) };
        let read = text.parse().map(|path: DiskPath| path.path());
        read.map_err(|e: NameError| TmError::Attribute {
            attribute: "STAGING_DIR".to_owned(),
            object: self.object(),
            value: e.value,
            accepted: e.accepted.into(),
        })
    }

    /// Where `export` says that the image can be had.
    pub(super) fn volume_address(&self, host: &HostName) -> Result<String, TmError> {
        self.address_of(&self.document.image()?.volume("SOURCE")?, host.as_str())
    }

    /// `rbd://HOST/POOL/VOLUME?CEPH_USER=...`: the stock downloader puts its parts into a command line, unquoted.
    fn address_of(&self, volume: &Volume, host: &str) -> Result<String, TmError> {
        let (ceph, object) = (&self.document.datastore.ceph, self.object());
        let cluster = ceph.cluster(&object)?;
        let plain = |attribute: &str, object: &str, text: &str| {
            let taken = |b: u8| b.is_ascii_alphanumeric() || b"-._/:".contains(&b);
            if text.bytes().all(taken) {
                return Ok(());
            }
            Err(TmError::Attribute {
                attribute: attribute.to_owned(),
                object: object.to_owned(),
                value: text.to_owned(),
                accepted: "letters, digits and -._/: only, for `export` makes it a part of an address".into(),
            })
        };
        plain("SOURCE", &format!("image {}", self.id), &volume.to_string())?;
        let said = [
            ("CEPH_USER", cluster.user.as_ref().map(|user| user.as_str())),
            ("CEPH_KEY", cluster.key.as_ref().map(DiskPath::as_str)),
            ("CEPH_CONF", cluster.conf.as_ref().map(DiskPath::as_str)),
        ];
        let mut address = format!("rbd://{host}/{volume}");
        let mut sign = '?';
        for (name, value) in said {
            let Some(value) = value else { continue };
            plain(name, &object, value)?;
            address.push_str(&format!("{sign}{name}={value}"));
            sign = '&';
        }
        Ok(address)
    }
}
