//! Whose turn it is: a VM's actions one after another, a host's so many at once, and long ones in a lane of their own.
//!
//! The stock driver has one pool for the whole cloud: fifteen slow shutdowns stop every deploy (contract VMM 7, A12).
//! Here `-t` bounds what one host does at once; a slow host holds up nobody but itself.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use causeway_core::names::{HostName, VmId};
use causeway_core::plan::Lane;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, watch};

/// The turns of one driver process.
pub struct Turns {
    /// `-t`.
    at_once: usize,
    /// `-p`; without it a host does one action at a time, of either lane.
    parallel: bool,
    table: Mutex<Table>,
}

/// Where a request needs room.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Room {
    /// On this host.
    Host(HostName),
    /// On the front-end, where somebody else's scripts run.
    FrontEnd,
    /// Nowhere: nothing holds it up.
    Open,
}

#[derive(Default)]
struct Table {
    vms: HashMap<VmId, Arc<tokio::sync::Mutex<()>>>,
    rooms: HashMap<(Room, Lane), Arc<Semaphore>>,
    cancels: HashMap<VmId, Vec<Arc<watch::Sender<bool>>>>,
}

/// A request in the queue or at work. Dropped when it is over.
pub struct Entry {
    turns: Rc<Turns>,
    vm: VmId,
    cancel: Arc<watch::Sender<bool>>,
    place: Arc<tokio::sync::Mutex<()>>,
}

/// The right to work: nobody else works on this VM (but for a BACKUPCANCEL, which waits for nobody), and the host has room.
pub struct Turn {
    _vm: Option<OwnedMutexGuard<()>>,
    room: Cell<Option<OwnedSemaphorePermit>>,
}

impl Turn {
    /// Gives the host's room to the next; the VM's turn is kept.
    pub fn give_way(&self) {
        drop(self.room.take());
    }
}

impl Turns {
    /// Turns for a driver started with these options.
    pub fn new(at_once: u16, parallel: bool) -> Self {
        Turns { at_once: usize::from(at_once).max(1), parallel, table: Mutex::default() }
    }

    /// Enters a request. Entries of one VM get their turns in the order in which they entered.
    pub fn enter(self: &Rc<Self>, vm: VmId) -> Entry {
        let mut table = self.lock();
        let cancel = Arc::new(watch::Sender::new(false));
        table.cancels.entry(vm).or_default().push(Arc::clone(&cancel));
        let place = Arc::clone(table.vms.entry(vm).or_default());
        Entry { turns: Rc::clone(self), vm, cancel, place }
    }

    /// Cancels everything of `vm` that is in the queue or at work; true if there was anything.
    pub fn cancel(&self, vm: VmId) -> bool {
        let table = self.lock();
        let entries = table.cancels.get(&vm).map(Vec::as_slice).unwrap_or_default();
        for cancel in entries {
            cancel.send_replace(true);
        }
        !entries.is_empty()
    }

    fn room(&self, room: &Room, lane: Lane) -> Arc<Semaphore> {
        let (places, lane) = if self.parallel { (self.at_once, lane) } else { (1, Lane::Short) };
        let mut table = self.lock();
        let fresh = || Arc::new(Semaphore::new(places));
        Arc::clone(table.rooms.entry((room.clone(), lane)).or_insert_with(fresh))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// Turns true when the request is cancelled.
    pub fn cancelled(&self) -> watch::Receiver<bool> {
        self.cancel.subscribe()
    }

    /// Waits for the VM to be free. The order is that of the first polls, so a task polls this before anything else.
    pub async fn vm_turn(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.place).lock_owned().await
    }

    /// What [`cancelled`](Entry::cancelled) listens to.
    pub fn canceller(&self) -> Arc<watch::Sender<bool>> {
        Arc::clone(&self.cancel)
    }

    /// Waits for room where the work is.
    pub async fn room_turn(
        &self,
        vm: impl Into<Option<OwnedMutexGuard<()>>>,
        room: &Room,
        lane: Lane,
    ) -> Turn {
        let place = match room {
            Room::Open => None,
            // A closed semaphore does not occur: nobody closes one.
            room => self.turns.room(room, lane).acquire_owned().await.ok(),
        };
        Turn { _vm: vm.into(), room: Cell::new(place) }
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut table = self.turns.lock();
        if let Some(entries) = table.cancels.get_mut(&self.vm) {
            entries.retain(|entry| !Arc::ptr_eq(entry, &self.cancel));
            if entries.is_empty() {
                table.cancels.remove(&self.vm);
                table.vms.remove(&self.vm);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn a_vm_has_one_turn_at_a_time_and_keeps_order() {
        block_on(async {
            let turns = Rc::new(Turns::new(15, true));
            let (first, second) = (turns.enter(VmId(1)), turns.enter(VmId(1)));
            let one = first.vm_turn().await;
            let mut waiting = Box::pin(second.vm_turn());
            assert!(futures_pending(&mut waiting).await);
            drop(one);
            drop(waiting.await);
        });
    }

    #[test]
    fn a_full_host_holds_up_neither_another_host_nor_the_other_lane() {
        block_on(async {
            let turns = Rc::new(Turns::new(1, true));
            let (h1, h2) = (Room::Host("h1".parse().unwrap()), Room::Host("h2".parse().unwrap()));
            let entries: Vec<_> = (1..5).map(|vm| turns.enter(VmId(vm))).collect();
            let turn = async |i: usize, host: &Room, lane| {
                let entry: &Entry = &entries[i];
                entry.room_turn(entry.vm_turn().await, host, lane).await
            };
            let _held = turn(0, &h1, Lane::Long).await;
            let _short = turn(1, &h1, Lane::Short).await;
            let _other = turn(2, &h2, Lane::Long).await;
            let mut waiting = Box::pin(turn(3, &h1, Lane::Long));
            assert!(futures_pending(&mut waiting).await);
        });
    }

    #[test]
    fn who_is_stuck_gives_way_to_other_vms_and_not_to_its_own() {
        block_on(async {
            let turns = Rc::new(Turns::new(15, false));
            let host = Room::Host("h1".parse().unwrap());
            let entries = [7, 8, 7].map(|vm| turns.enter(VmId(vm)));
            let turn = async |i: usize| {
                let entry: &Entry = &entries[i];
                entry.room_turn(entry.vm_turn().await, &host, Lane::Short).await
            };
            let stuck = turn(0).await;
            let mut other = Box::pin(turn(1));
            assert!(futures_pending(&mut other).await);
            stuck.give_way();
            drop(other.await);
            let mut own = Box::pin(turn(2));
            assert!(futures_pending(&mut own).await);
            drop(stuck);
            own.await;
        });
    }

    #[test]
    fn a_cancel_reaches_the_queue_and_is_forgotten_with_it() {
        let turns = Rc::new(Turns::new(15, true));
        let entry = turns.enter(VmId(7));
        assert!(turns.cancel(VmId(7)));
        assert!(*entry.cancelled().borrow());
        drop(entry);
        assert!(!turns.cancel(VmId(7)));
        assert!(!*turns.enter(VmId(7)).cancelled().borrow());
    }

    async fn futures_pending<F: Future + Unpin>(future: &mut F) -> bool {
        tokio::select! {
            biased;
            _ = future => false,
            () = tokio::time::sleep(std::time::Duration::from_millis(20)) => true,
        }
    }
}
