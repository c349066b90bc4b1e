//! A backup that a VM is to be restored from: what its datastore's driver must be told (contract TM 2.3).

use causeway_core::document::{self, DriverName};

use crate::error::TmError;

/// The documents, as oned gives them to its own drivers.
#[derive(Clone, PartialEq, Eq)]
pub struct BackupSource {
    vm: String,
    image: String,
    /// May hold passwords: oned decrypts them for this.
    datastore: String,
    /// The datastore's number, where it says it.
    store: Option<String>,
    driver: DriverName,
    /// The backup's number.
    id: String,
    /// Of the backup: `raw` for images of QEMU's, `rbd` for the cluster's own (contract TM 2.3).
    format: Option<String>,
}

impl std::fmt::Debug for BackupSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupSource").field("driver", &self.driver).finish_non_exhaustive()
    }
}

impl BackupSource {
    /// The number of the datastore that an image lies in.
    ///
    /// # Errors
    /// The document is no image's, or does not say.
    pub fn datastore_of(image: &str) -> Result<u32, TmError> {
        let missing =
            || TmError::Missing { what: "DATASTORE_ID".to_owned(), object: "the backup".to_owned() };
        let root = read(image, "the backup", "IMAGE")?;
        root.value("DATASTORE_ID").and_then(|text| text.parse().ok()).ok_or_else(missing)
    }

    /// From the documents of the VM, the backup image and its datastore.
    ///
    /// # Errors
    /// One of them is none, or the datastore has no driver.
    pub fn of(vm: &str, image: &str, datastore: &str) -> Result<Self, TmError> {
        let object = "the backup's datastore";
        let store = read(datastore, object, "DATASTORE")?;
        let missing = || TmError::Missing { what: "DS_MAD".to_owned(), object: object.to_owned() };
        let name = store.value("DS_MAD").ok_or_else(missing)?;
        let driver = name.parse().map_err(|_| TmError::Attribute {
            attribute: "DS_MAD".to_owned(),
            object: object.to_owned(),
            value: name.clone(),
            accepted: "a driver's name".into(),
        })?;
        let image = read(image, "the backup", "IMAGE")?;
        Ok(BackupSource {
            vm: read(vm, "the VM", "VM")?.render(),
            id: image.value("ID").unwrap_or_default(),
            format: image.value("FORMAT").filter(|format| !format.is_empty()),
            image: image.render(),
            store: store.value("ID").filter(|id| id.bytes().all(|b| b.is_ascii_digit())),
            datastore: store.render(),
            driver,
        })
    }

    /// The number of the datastore that it lies in, for messages.
    pub(crate) fn lies_in(&self) -> Option<&str> {
        self.store.as_deref().filter(|id| !id.is_empty())
    }

    /// Sees to it that the backup holds what we make and read; `object` is its name, for messages.
    ///
    /// # Errors
    /// It is of the format that older releases made of volumes.
    pub fn expect_images(&self, object: &str) -> Result<(), TmError> {
        match self.format.as_deref().filter(|format| format.eq_ignore_ascii_case("rbd")) {
            None => Ok(()),
            Some(format) => Err(TmError::Attribute {
                attribute: "FORMAT".to_owned(),
                object: object.to_owned(),
                value: format.to_owned(),
                accepted: "raw: the chains of older releases are not gone on with. Begin a new one by `onevm backup \
                           --reset`; for a restore keep the stock script, by `--keep tm/ceph/restore`"
                    .into(),
            }),
        }
    }

    /// The datastore's driver.
    pub fn driver(&self) -> &str {
        self.driver.as_str()
    }

    /// What is asked of the driver, for messages.
    pub fn asked(&self) -> String {
        format!("what is in backup image {}, asked of datastore/{}/ls", self.id, self.driver)
    }

    /// What the driver is told on standard input when it is to list what is in the backup.
    pub fn question(&self, increment: Option<u32>) -> String {
        let BackupSource { vm, image, datastore, .. } = self;
        // Without it the stock drivers look for the last increment's files, whichever chain they are asked for.
        let chosen = increment.map(|id| format!("<TEMPLATE><INCREMENT_ID>{id}</INCREMENT_ID></TEMPLATE>"));
        let chosen = chosen.unwrap_or_default();
        format!("<DS_DRIVER_ACTION_DATA>{datastore}{vm}{image}{chosen}</DS_DRIVER_ACTION_DATA>\n")
    }
}

fn read(text: &str, object: &str, name: &str) -> Result<std::sync::Arc<document::tree::Element>, TmError> {
    let root = document::parse(text.as_bytes());
    let root = root.map_err(|e| TmError::Document { object: object.to_owned(), source: e.into() })?;
    match root.name() == name {
        true => Ok(root),
        false => Err(TmError::Missing { what: name.to_owned(), object: object.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_is_asked_with_whole_documents_and_a_password_is_not_printed() {
        let image = "<?xml version=\"1.0\"?><IMAGE><ID>39</ID><NAME><![CDATA[it's]]></NAME><DATASTORE_ID>110</DATASTORE_ID></IMAGE>";
        let datastore = "<DATASTORE><ID>110</ID><DS_MAD>restic</DS_MAD><TEMPLATE><RESTIC_PASSWORD>hush</RESTIC_PASSWORD></TEMPLATE></DATASTORE>";
        assert_eq!(BackupSource::datastore_of(image), Ok(110));
        let source = BackupSource::of("<VM><ID>7</ID></VM>", image, datastore).unwrap();
        assert_eq!(source.driver(), "restic");
        let question = source.question(Some(2));
        let read = document::parse(question.as_bytes()).unwrap();
        assert_eq!(read.all(&["IMAGE", "NAME"])[0].text(), "it's");
        assert_eq!(read.all(&["TEMPLATE"])[0].value("INCREMENT_ID").as_deref(), Some("2"));
        assert!(!source.question(None).contains("INCREMENT_ID"));
        assert!(!format!("{source:?}").contains("hush"));
        for odd in ["", "<VM/>", "<DATASTORE><DS_MAD>../x</DS_MAD></DATASTORE>", "<DATASTORE/>"] {
            assert!(BackupSource::of("<VM/>", image, odd).is_err(), "{odd}");
        }
        assert!(BackupSource::datastore_of("<IMAGE/>").is_err());
    }
}
