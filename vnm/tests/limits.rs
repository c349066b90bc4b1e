//! The limits of guests' NICs in `update_nic` (contract VNM 4.7, W26): what a document wants, what is refused by name, and that
//! what was set is put back where a later step fails.

#![cfg(test)]

mod common;

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::{Bandwidth, Bandwidths, VmDocument, encode};
use causeway_core::names::DeployId;
use causeway_vnm::asked::Moment;
use causeway_vnm::bandwidth::{Guests, Interface, Wanted, difference, wanted};
use causeway_vnm::desired::{Driver, Settings};
use causeway_vnm::root::{Outcome, Request, frame};
use causeway_vnm::slot::{self, Answer, Context, Root};
use common::limits::{NoGuests, OneGuest};
use common::side::{Side, response};
use common::{document, nic};

const GUEST: &str = "6e1f0f2a-0000-4000-8000-000000000007";

/// A document of VM 7 whose NICs of `driver`, in network 3, have these attributes, and whose update names `changed`.
fn vm(driver: &str, nics: &[&str], changed: &[&str]) -> String {
    let nics = nics.iter().zip(0..).map(|(more, number)| {
        let switch = if driver.starts_with("ov") { "<BRIDGE_TYPE>openvswitch</BRIDGE_TYPE>" } else { "" };
        let more = format!("{more}{switch}<VN_MAD>{driver}</VN_MAD><NETWORK_ID>3</NETWORK_ID>");
        nic(7, number, 4, &more)
    });
    let old: String = changed.iter().map(|name| format!("<{name}/>")).collect();
    let update = format!("<TEMPLATE><VNET_UPDATE>{old}</VNET_UPDATE></TEMPLATE>");
    document(7, &format!("{}{update}", nics.collect::<String>()))
}

fn wants(driver: &str, document: &str) -> Result<Option<Wanted>, String> {
    let vm = VmDocument::parse(document.as_bytes()).unwrap();
    let driver = Driver::try_from(&driver.parse().unwrap()).unwrap();
    wanted(driver, &vm, GUEST, 3).map_err(|refusal| refusal.to_string())
}

fn of(average: u64, peak: u64, burst: u64) -> Bandwidth {
    Bandwidth { average: Some(average), peak: Some(peak), burst: Some(burst) }.in_force()
}

fn interface(target: Option<&str>, mac: &str, limits: Bandwidths) -> Interface {
    Interface { target: target.map(|t| t.parse().unwrap()), mac: Some(mac.parse().unwrap()), limits }
}

const FAST: &str = "<INBOUND_AVG_BW>1000</INBOUND_AVG_BW><INBOUND_PEAK_BW>2000</INBOUND_PEAK_BW>\
                    <INBOUND_PEAK_KB>300</INBOUND_PEAK_KB><OUTBOUND_AVG_BW>50</OUTBOUND_AVG_BW>";
const LIMITED: Bandwidths = Bandwidths {
    inbound: Bandwidth { average: Some(1000), peak: Some(2000), burst: Some(300) },
    outbound: Bandwidth { average: Some(50), peak: None, burst: None },
};

#[test]
fn every_driver_limits_all_nics_of_the_network_and_no_other() {
    for (driver, _) in Driver::NAMES {
        let mut document = vm(driver, &[FAST, "<INBOUND_AVG_BW>0</INBOUND_AVG_BW>"], &["INBOUND_AVG_BW"]);
        let other = format!("{FAST}<VN_MAD>{driver}</VN_MAD><NETWORK_ID>4</NETWORK_ID>");
        document = document.replace("</VM>", &format!("{}</VM>", nic(7, 2, 5, &other)));
        let found = wants(driver, &document).unwrap().unwrap();
        assert_eq!(found.guest.as_str(), GUEST);
        let limits: Vec<_> = found.nics.iter().map(|nic| (nic.tap.as_str(), nic.limits)).collect();
        assert_eq!(limits, [("one-7-0", LIMITED), ("one-7-1", Bandwidths::default())], "{driver}");
    }
}

/// oned names what has changed, also what has gone; the update of an MTU asks libvirt nothing.
#[test]
fn only_an_update_of_limits_is_about_limits() {
    for (changed, about) in [
        (&["OUTBOUND_PEAK_KB", "MTU"][..], true),
        (&["MTU", "VLAN_ID"], false),
        // Nothing is named: then it is looked at.
        (&[], true),
    ] {
        assert_eq!(wants("fw", &vm("fw", &[FAST], changed)).unwrap().is_some(), about, "{changed:?}");
    }
    let container =
        vm("fw", &[FAST], &["INBOUND_AVG_BW"]).replace("<HOSTNAME>", "<VM_MAD>lxc</VM_MAD><HOSTNAME>");
    assert_eq!(wants("fw", &container).unwrap(), None);
    // Nor is a bad limit a reason to refuse another MTU.
    let bad = "<INBOUND_AVG_BW>9</INBOUND_AVG_BW><INBOUND_PEAK_BW>8</INBOUND_PEAK_BW>";
    assert_eq!(wants("fw", &vm("fw", &[bad], &["MTU"])).unwrap(), None);
}

#[test]
fn the_recorded_update() {
    let recorded = include_bytes!("data/ovswitch_vxlan_update_nic.xml");
    let vm = VmDocument::parse(recorded).unwrap();
    assert_eq!(vm.vnet_update.get("INBOUND_AVG_BW").unwrap(), "", "it was unset");
    let network = |driver: Driver| driver.selected(&vm)[0].network_id.unwrap();
    let of = |driver| wanted(driver, &vm, "-", network(driver)).unwrap();
    let both = [of(Driver::OvSwitchVxlan), of(Driver::Vxlan)];
    insta::assert_debug_snapshot!("limits_of_the_recorded_update", both);
}

#[test]
fn limits_that_can_not_be_meant_are_refused_by_name() {
    for (attributes, words) in [
        (
            "<INBOUND_AVG_BW>9</INBOUND_AVG_BW><INBOUND_PEAK_BW>8</INBOUND_PEAK_BW>",
            "NIC 0: INBOUND_PEAK_BW is \"8\", not 9 (INBOUND_AVG_BW) or more",
        ),
        (
            "<OUTBOUND_PEAK_BW>8</OUTBOUND_PEAK_BW>",
            "NIC 0: OUTBOUND_PEAK_BW is \"8\", not possible without OUTBOUND_AVG_BW",
        ),
        (
            "<INBOUND_PEAK_KB>8</INBOUND_PEAK_KB>",
            "NIC 0: INBOUND_PEAK_KB is \"8\", not possible without INBOUND_AVG_BW",
        ),
        (
            "<OUTBOUND_AVG_BW>4294967296</OUTBOUND_AVG_BW>",
            "NIC 0: OUTBOUND_AVG_BW is \"4294967296\", not a number up to 4294967295",
        ),
        (
            "<INBOUND_AVG_BW>1</INBOUND_AVG_BW><INBOUND_PEAK_KB>18446744073709551615</INBOUND_PEAK_KB>",
            "NIC 0: INBOUND_PEAK_KB is \"18446744073709551615\", not a number up to 4294967295",
        ),
    ] {
        let refused = wants("fw", &vm("fw", &[attributes], &["INBOUND_AVG_BW"])).unwrap_err();
        assert_eq!(refused, words);
    }
    for fine in [
        "",
        // As libvirt takes it at boot: no limit at all.
        "<INBOUND_AVG_BW>0</INBOUND_AVG_BW><INBOUND_PEAK_BW>8</INBOUND_PEAK_BW>",
        "<INBOUND_AVG_BW>8</INBOUND_AVG_BW><INBOUND_PEAK_BW>8</INBOUND_PEAK_BW>",
        "<INBOUND_AVG_BW>8</INBOUND_AVG_BW><INBOUND_PEAK_BW>0</INBOUND_PEAK_BW>",
        "<INBOUND_AVG_BW>4294967295</INBOUND_AVG_BW>",
        "<INBOUND_PEAK_BW>0</INBOUND_PEAK_BW>",
    ] {
        assert!(wants("fw", &vm("fw", &[fine], &["INBOUND_AVG_BW"])).is_ok(), "{fine}");
    }
    let document = VmDocument::parse(vm("fw", &[FAST], &[]).as_bytes()).unwrap();
    let wrong = wanted(Driver::Fw, &document, "../x", 3).unwrap_err().to_string();
    assert_eq!(wrong, "argument \"../x\" is not a deploy id, as oned gives it, or - for none");
    // The document has none either.
    assert_eq!(wanted(Driver::Fw, &document, "-", 3).unwrap(), None);
}

#[test]
fn what_is_so_already_is_not_changed_and_what_is_not_there_is_told() {
    let all = vm("ovswitch", &[FAST, FAST, FAST, FAST], &["INBOUND_AVG_BW"]);
    let found = wants("ovswitch", &all).unwrap().unwrap();
    let loose = Bandwidths { outbound: of(0, 7, 7), ..LIMITED };
    let interfaces = [
        interface(Some("one-7-0"), "02:00:00:00:00:01", LIMITED),
        // One of DPDK, which libvirt may know by its address alone.
        interface(None, &common::mac(7, 1), loose),
        // The address of another NIC does not make it that NIC.
        interface(Some("one-8-0"), &common::mac(7, 2), loose),
        interface(Some("one-7-3"), &common::mac(7, 3), Bandwidths::default()),
    ];
    let (changes, notes) = difference(&found, &interfaces);
    let told: Vec<String> = changes.iter().map(ToString::to_string).collect();
    assert_eq!(
        told,
        [
            "limit 02:00:0a:00:07:01: inbound 1000 KiB/s, at most 2000, 300 KiB at once, outbound 50 KiB/s",
            "limit one-7-3: inbound 1000 KiB/s, at most 2000, 300 KiB at once, outbound 50 KiB/s",
        ]
    );
    assert_eq!(changes[0].before, Bandwidths { inbound: LIMITED.inbound, ..Bandwidths::default() });
    let note = format!("NIC 2: not plugged into {GUEST}, so its limits were not changed");
    assert_eq!(notes, [note]);
}

/// A slot, the guest that it is about, and what the privileged side answers, in order.
fn update(side: &Side, answers: &[&str], guests: &dyn Guests, document: &str) -> Result<Answer, Failure> {
    // Each question is kept before it is answered.
    let answers: String = answers.iter().map(|name| format!("; ask; cat {name}")).collect();
    let script = format!(
        "rm -f asked; ask() {{ n=$(head -c 4 | tee -a asked | od -An -tu4 --endian=big); head -c $n >>asked; }}; \
         echo >started; cat hello{answers}"
    );
    let root = Mutex::new(Root::new(side.argv(&script)));
    let context = Context {
        request: "test-1".parse().unwrap(),
        settings: Settings::default(),
        deadline: Duration::from_secs(20),
        dry_run: false,
        asked: Moment::now(),
    };
    let argv = [GUEST.to_owned(), "3".to_owned()];
    let held = Watched { guests, root: &root };
    slot::run("update_nic", "fw", &argv, encode(document.as_bytes()).as_bytes(), &context, &root, &held)
}

/// Sees to it that nobody's network waits for this guest's libvirt.
struct Watched<'a> {
    guests: &'a dyn Guests,
    root: &'a Mutex<Root>,
}

impl Guests for Watched<'_> {
    fn interfaces(&self, guest: &DeployId) -> Result<Option<Vec<Interface>>, Failure> {
        drop(self.root.try_lock().unwrap());
        self.guests.interfaces(guest)
    }

    fn limit(&self, guest: &DeployId, device: &str, limits: &Bandwidths) -> Result<(), Failure> {
        drop(self.root.try_lock().unwrap());
        self.guests.limit(guest, device, limits)
    }
}

/// Whether each request that came was a question only.
fn asked(side: &Side) -> Vec<bool> {
    let bytes = std::fs::read(side.dir.path().join("asked")).unwrap_or_default();
    let mut stream = bytes.as_slice();
    let mut all = Vec::new();
    while let Some(body) = frame::read(&mut stream).unwrap() {
        all.push(frame::decode::<Request>(&body).unwrap().dry_run);
    }
    all
}

fn two_nics() -> OneGuest {
    let slow = Bandwidths { inbound: of(9, 0, 0), outbound: of(8, 0, 0) };
    OneGuest::with(vec![
        interface(Some("one-7-0"), &common::mac(7, 0), slow),
        interface(Some("one-7-1"), &common::mac(7, 1), Bandwidths::default()),
    ])
}

fn both() -> String {
    vm("fw", &[FAST, FAST], &["INBOUND_AVG_BW"])
}

#[test]
fn limits_are_set_between_the_question_and_the_change() {
    let (side, guest) = (Side::new(), two_nics());
    let answer = update(&side, &["done", "done"], &guest, &both()).unwrap();
    assert_eq!(guest.limits(), [LIMITED, LIMITED]);
    assert_eq!(answer.changes.len(), 2);
    assert!(answer.changes[0].starts_with("limit one-7-0: inbound 1000 KiB/s"), "{:?}", answer.changes);
    assert_eq!(asked(&side), [true, false]);
    // Once more: nothing is to be set, so nothing has to be asked first.
    let again = update(&side, &["done"], &guest, &both()).unwrap();
    assert_eq!((again.changes, asked(&side)), (Vec::new(), vec![false]));
    assert_eq!(guest.calls().len(), 4);
}

#[test]
fn a_limit_that_fails_puts_all_back_and_leaves_the_network_alone() {
    let (side, guest) = (Side::new(), two_nics());
    let before = guest.limits();
    guest.failures.lock().unwrap().extend([None, Some("sfq is unknown")]);
    let failure = update(&side, &["done", "done"], &guest, &both()).unwrap_err();
    assert_eq!(failure.kind, Kind::Refused);
    let first = "NIC 1: limit one-7-1: inbound 1000 KiB/s, at most 2000, 300 KiB at once, outbound 50 KiB/s: sfq is unknown";
    assert_eq!(failure.text, first);
    assert_eq!(guest.limits(), before);
    let back = guest.calls().split_off(3);
    assert_eq!(
        back,
        ["one-7-1: inbound no limit, outbound no limit", "one-7-0: inbound 9 KiB/s, outbound 8 KiB/s"]
    );
    assert_eq!(asked(&side), [true]);

    guest.failures.lock().unwrap().extend([None, Some("sfq is unknown"), Some("nor is it now"), None]);
    let failure = update(&side, &["done"], &guest, &both()).unwrap_err();
    assert_eq!(
        failure.text,
        format!("{first}; putting the limits of NIC 1 back failed as well: nor is it now")
    );
    assert_eq!(guest.limits(), before);
}

#[test]
fn a_network_that_can_not_be_changed_leaves_the_limits() {
    let (side, guest) = (Side::new(), two_nics());
    let before = guest.limits();
    let outcome = Outcome::Failed(Failure::new(Kind::HostState, "up0 is not listed"));
    side.frame("no", &causeway_vnm::root::Response { outcome, ..response(Some("test-1")) });
    let failure = update(&side, &["no"], &guest, &both()).unwrap_err();
    assert_eq!((failure.text.as_str(), guest.calls().len()), ("up0 is not listed", 1), "nothing was set");
    let failure = update(&side, &["done", "no"], &guest, &both()).unwrap_err();
    assert_eq!((failure.text.as_str(), asked(&side)), ("up0 is not listed", vec![true, false]));
    assert_eq!((guest.limits(), guest.calls().len()), (before, 5));
}

#[test]
fn a_guest_that_is_gone_is_a_note_and_a_silent_libvirt_a_failure() {
    let side = Side::new();
    let gone = OneGuest::default();
    let answer = update(&side, &["done"], &gone, &both()).unwrap();
    let notes = ["a note".to_owned(), format!("{GUEST} is not here, so its limits were not changed")];
    assert_eq!((answer.notes, answer.changes), (notes.to_vec(), Vec::new()));
    let side = Side::new();
    let silent = OneGuest { silent: true, ..OneGuest::default() };
    let failure = update(&side, &[], &silent, &both()).unwrap_err();
    assert_eq!((failure.kind, failure.text.as_str()), (Kind::Unreachable, "no answer within 15 s"));
    assert!(!side.dir.path().join("started").exists(), "no network was touched");
    let side = Side::new();
    // An update of something else goes on without libvirt.
    update(&side, &["done"], &NoGuests, &vm("fw", &[FAST], &["MTU"])).unwrap();
}

#[test]
fn an_update_that_dies_is_finished_by_the_next() {
    let mut points = 0;
    loop {
        let (side, guest) = (Side::new(), two_nics());
        *guest.dies_before.lock().unwrap() = Some(points);
        let dies = || update(&side, &["done", "done"], &guest, &both());
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(dies)).is_ok();
        *guest.dies_before.lock().unwrap_or_else(PoisonError::into_inner) = None;
        update(&Side::new(), &["done", "done"], &guest, &both()).unwrap();
        assert_eq!(guest.limits(), [LIMITED, LIMITED], "died before call {points}");
        if ended {
            break;
        }
        points += 1;
    }
    assert_eq!(points, 3, "a look and two settings");
}
