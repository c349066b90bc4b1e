//! `export`: an image, ready to be copied elsewhere as one file, of what a guest wrote to it last (W14).

use causeway_core::locks::Mode;
use md5::Md5;

use super::copy::head;
use super::import::sum_of;
use super::{Datastore, During, Exported, StorageError, Stored, Worker, convert, lock};
use crate::place::{FileName, Image, TEMPORARY};

/// Prints [`Exported`].
pub(super) fn export(image: &Image, stored: Stored, worker: &Worker<'_>) -> Result<String, StorageError> {
    let name = image.name();
    let bad = || StorageError::Image { path: image.path(), why: "its name is too long".to_owned() };
    let own: FileName = format!("{name}.export").parse().map_err(|_| bad())?;
    // Others may read the image meanwhile; two exports would be in each other's way.
    let beside = image.datastore().image(own.clone());
    let _locks = lock::images(worker, &[(image, Mode::Shared), (&beside, Mode::Exclusive)])?;
    let head = head(image, stored)?;
    worker.at("image opened");
    let exported = |name: String, md5: String, dispose: bool| {
        let told = Exported { name, md5, format: stored.as_str().to_owned(), dispose };
        let text = serde_json::to_string(&told);
        text.map(|text| format!("exported {text}"))
            .map_err(|e| StorageError::Image { path: image.path(), why: e.to_string() })
    };
    if head.is_whole() && head.path() == image.path() {
        let sum = sum_of::<Md5>(head.file()).during("read", head.path())?;
        return exported(name.to_string(), sum, false);
    }
    // A chain is no file that anybody could copy. What is made of it has a name that the next export, and the removal of
    // the image, take away if the market does not.
    let folder = Datastore::open(image.datastore())?.into_folder();
    folder.sweep(&own)?;
    worker.at("leftovers removed");
    let made = folder.temporary(&own);
    convert((head.path(), stored.as_str()), head.virtual_size(), (&made, stored), true, worker)?;
    let last = format!("{TEMPORARY}{own}.image");
    made.publish(&last)?;
    worker.at("export in place");
    folder.sync()?;
    let file = folder.open(&last)?;
    let sum = sum_of::<Md5>(&file).during("read", folder.path().join(&last))?;
    exported(last, sum, true)
}
