//! The numbers of NICs: each is a symbolic link to nowhere that says whose it is, because a link is made whole or not at all.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use causeway_core::names::VmId;

use super::store::{Reservations, Result, failed, is_absent, make_dir, remove};
use crate::desired::Number;

impl Reservations {
    fn numbers(&self) -> PathBuf {
        self.dir().join("numbers")
    }

    /// The number of a NIC: `known` if that is its own or free, or another that it has, or one that is free.
    ///
    /// # Errors
    /// The file system's; all numbers are taken.
    pub fn number(&self, vm: VmId, nic: u32, known: Option<Number>) -> Result<Number> {
        let dir = self.numbers();
        make_dir(&dir).map_err(failed("make", &dir))?;
        let owner = owner(vm, nic);
        for number in known.into_iter().chain(from(vm, nic)) {
            let path = dir.join(number.to_string());
            match std::os::unix::fs::symlink(&owner, &path) {
                Ok(()) => return Ok(number),
                // It is the one of a run that was killed, or of another NIC.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    if is_of(&path, &owner).map_err(failed("read", &path))? {
                        return Ok(number);
                    }
                }
                Err(error) => return Err(failed("make", &path)(error)),
            }
        }
        Err(failed("find a free number in", &dir)(io::ErrorKind::StorageFull.into()))
    }

    /// The number that [`number`](Reservations::number) would find; nothing is written.
    ///
    /// # Errors
    /// As there.
    pub fn number_to_be(&self, vm: VmId, nic: u32, known: Option<Number>) -> Result<Number> {
        let dir = self.numbers();
        let owner = owner(vm, nic);
        for number in known.into_iter().chain(from(vm, nic)) {
            let path = dir.join(number.to_string());
            let taken = std::fs::symlink_metadata(&path).is_ok();
            if !taken || is_of(&path, &owner).map_err(failed("read", &path))? {
                return Ok(number);
            }
        }
        Err(failed("find a free number in", &dir)(io::ErrorKind::StorageFull.into()))
    }

    /// Gives a number back, if it is that NIC's.
    ///
    /// # Errors
    /// The file system's.
    pub fn give_back(&self, number: Number, vm: VmId, nic: u32) -> Result<()> {
        let path = self.numbers().join(number.to_string());
        match is_of(&path, &owner(vm, nic)).map_err(failed("read", &path))? {
            true => remove(&path).map_err(failed("remove", &path)),
            false => Ok(()),
        }
    }

    /// Every number that is taken, with its owner.
    ///
    /// # Errors
    /// The directory cannot be read; one that is not there holds none.
    pub fn taken(&self) -> Result<Vec<(Number, VmId, u32)>> {
        let dir = self.numbers();
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            other => other.map_err(failed("list", &dir))?,
        };
        let mut taken = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed("list", &dir))?.path();
            let number = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            let target = std::fs::read_link(&path).ok();
            let owner = target.as_deref().and_then(Path::to_str).and_then(|owner| {
                let (vm, nic) = owner.split_once('-')?;
                Some((vm.parse().ok()?, nic.parse().ok()?))
            });
            taken.extend(number.zip(owner).map(|(number, (vm, nic))| (number, vm, nic)));
        }
        taken.sort_unstable();
        Ok(taken)
    }

    /// The numbers of a VM's NICs, by `NIC_ID`, whatever its reservation says.
    ///
    /// # Errors
    /// As [`taken`](Reservations::taken).
    pub fn numbers_of(&self, vm: VmId) -> Result<BTreeMap<u32, Number>> {
        let own = self.taken()?.into_iter().filter(|(_, owner, _)| *owner == vm);
        Ok(own.map(|(number, _, nic)| (nic, number)).collect())
    }
}

fn owner(vm: VmId, nic: u32) -> String {
    format!("{vm}-{nic}")
}

fn is_of(path: &Path, owner: &str) -> io::Result<bool> {
    match std::fs::read_link(path) {
        Ok(found) => Ok(found == Path::new(owner)),
        Err(error) if is_absent(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Every number, from one that depends on the NIC: the first try nearly always finds a free one, or its own. Further ones lie far away,
/// not where the NICs of the next VMs begin.
fn from(vm: VmId, nic: u32) -> impl Iterator<Item = Number> {
    /// It has no divisor in common with their count, so that none is left out.
    const STRIDE: u32 = 30_223;
    let count = u32::from(Number::LAST - Number::FIRST) + 1;
    let first = vm.0.wrapping_mul(7).wrapping_add(nic) % count;
    (0..count).filter_map(move |step| {
        let offset = u16::try_from((first + step * STRIDE) % count).ok()?;
        Number::try_from(Number::FIRST + offset).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_nic_has_one_number_and_keeps_it() {
        let dir = tempfile::tempdir().unwrap();
        let book = Reservations::new(dir.path());
        let nics: Vec<(VmId, u32)> = (0..40).flat_map(|vm| (0..9).map(move |nic| (VmId(vm), nic))).collect();
        let mut numbers: Vec<Number> =
            nics.iter().map(|(vm, nic)| book.number(*vm, *nic, None).unwrap()).collect();
        for ((vm, nic), number) in nics.iter().zip(&numbers) {
            assert_eq!(book.number(*vm, *nic, None).unwrap(), *number);
        }
        assert_eq!(book.taken().unwrap().len(), nics.len());
        // What is another's is not given back.
        book.give_back(numbers[0], VmId(1), 0).unwrap();
        assert_eq!(book.taken().unwrap().len(), nics.len());
        book.give_back(numbers[0], VmId(0), 0).unwrap();
        assert_eq!(book.taken().unwrap().len(), nics.len() - 1);
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), nics.len());
    }

    /// One that another VM has given back meanwhile is not taken in its place: a switch counts connections by it.
    #[test]
    fn a_number_that_is_known_stays() {
        let dir = tempfile::tempdir().unwrap();
        let book = Reservations::new(dir.path());
        let first = book.number(VmId(1), 7, None).unwrap();
        let other = book.number(VmId(2), 0, None).unwrap();
        assert_ne!(first, other);
        book.give_back(first, VmId(1), 7).unwrap();
        assert_eq!(book.number_to_be(VmId(2), 0, Some(other)).unwrap(), other);
        assert_eq!(book.number(VmId(2), 0, Some(other)).unwrap(), other);
        // Another's is not.
        assert_eq!(book.number(VmId(1), 7, Some(other)).unwrap(), first);
    }

    #[test]
    fn numbers_are_found_at_once_where_vms_have_many_nics() {
        let mut taken = std::collections::BTreeSet::new();
        for (vm, nic) in (0..100).flat_map(|vm| (0..10).map(move |nic| (VmId(vm), nic))) {
            let tries = from(vm, nic).take_while(|number| taken.contains(number)).count();
            assert!(tries < 4, "VM {vm} NIC {nic}: {tries}");
            taken.extend(from(vm, nic).nth(tries));
        }
        assert_eq!(
            from(VmId(3), 1).collect::<std::collections::BTreeSet<_>>().len(),
            from(VmId(3), 1).count()
        );
    }

    #[test]
    fn a_full_book_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let book = Reservations::new(dir.path());
        let shelf = dir.path().join("numbers");
        std::fs::create_dir(&shelf).unwrap();
        for number in Number::FIRST..=Number::LAST {
            std::os::unix::fs::symlink("1-0", shelf.join(number.to_string())).unwrap();
        }
        let error = book.number(VmId(2), 0, None).unwrap_err().to_string();
        assert!(error.contains("find a free number"), "{error}");
    }
}
