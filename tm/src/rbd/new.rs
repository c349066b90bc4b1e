//! New volumes, whose data may lie in another pool than their names (`EC_POOL_NAME`).

use super::error::{RbdError, code};
use super::name::{PoolName, Volume};
use super::tool::Rbd;
use crate::host::StorageError;

impl Rbd<'_> {
    pub(crate) fn create(
        &self,
        volume: &Volume,
        bytes: u64,
        data: Option<&PoolName>,
    ) -> Result<(), StorageError> {
        self.make("create", volume, data, &["--size", &format!("{bytes}B"), &volume.to_string()])
    }

    pub(crate) fn clone(
        &self,
        from: &str,
        volume: &Volume,
        data: Option<&PoolName>,
    ) -> Result<(), StorageError> {
        self.make("clone", volume, data, &[from, &volume.to_string()])
    }

    pub(crate) fn copy(
        &self,
        from: &str,
        volume: &Volume,
        data: Option<&PoolName>,
    ) -> Result<(), StorageError> {
        self.make("copy", volume, data, &["--no-progress", from, &volume.to_string()])
    }

    /// Runs a verb that makes a volume.
    ///
    /// # Errors
    /// [`RbdError::DataPool`]: it is the pool for data that is not there. The tool says no more than that something is not.
    pub(super) fn make(
        &self,
        verb: &str,
        volume: &Volume,
        data: Option<&PoolName>,
        words: &[&str],
    ) -> Result<(), StorageError> {
        let pool = data.map_or_else(Vec::new, |pool| vec!["--data-pool", pool.as_str()]);
        let made = self.call(&[verb], &volume.to_string(), &[pool.as_slice(), words].concat());
        let absent = matches!(&made, Err(StorageError::Rbd(error)) if error.is(code::ENOENT));
        if let (true, Some(pool)) = (absent, data)
            && let Err(StorageError::Rbd(RbdError::Pool { pool, said })) = self.names(pool)
        {
            return Err(RbdError::DataPool { pool, said }.into());
        }
        made.map(drop)
    }
}
