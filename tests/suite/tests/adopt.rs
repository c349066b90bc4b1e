//! What the next driver process makes of what a dead one had in flight: the built executable, killed and started again,
//! with a stand-in for oned's own interface and hosts on which libvirt's test driver shows a guest or none.

#![expect(
    clippy::unwrap_used,
    reason = "clippy.toml allows it in tests, but takes only `#[test]` functions for tests"
)]

use std::fs;
use std::time::{Duration, Instant};

use causeway_suite::front_end::{Answer, Event, FrontEnd};
use causeway_suite::oned::{Api, Oned};
use causeway_suite::request::Request;
use causeway_suite::xml::Element;

const KVM: &str = "-t 15 -r 0 kvm -p";

/// The UUID in the recorded deployment file.
const GUEST: &str = "0a9740f1-4d50-4438-a1af-70d224786bbe";

/// oned's `LCM_STATE` of a VM that runs: nothing is waited for.
const RUNNING: &str = "3";

/// What has become of a VM meanwhile.
type Change = fn(&mut Element);

struct Stage {
    front_end: FrontEnd,
    api: Api,
    deploy: Request,
}

impl Stage {
    /// Hosts that show these guests running, whoever asks.
    fn new(guests: &[&str]) -> Stage {
        let directory = tempfile::tempdir().unwrap();
        let node = directory.path().join("node.xml");
        let mut text = String::from(
            "<node><cpu><mhz>1000</mhz><model>x</model><active>1</active><nodes>1</nodes>\
             <sockets>1</sockets><cores>1</cores><threads>1</threads></cpu><memory>8192000</memory>",
        );
        for (index, uuid) in guests.iter().enumerate() {
            text.push_str(&format!(
                "<domain type='test'><name>one-{index}</name><uuid>{uuid}</uuid><memory>1024</memory><vcpu>1</vcpu>\
                 <os><type>hvm</type></os></domain>"
            ));
        }
        fs::write(&node, text + "</node>").unwrap();
        let front_end = FrontEnd::with_libvirt(&format!("test://{}", node.display())).unwrap();
        // It must outlive every resident.
        fs::rename(directory.keep(), front_end.root().join("node")).unwrap();
        let uri = format!("export LIBVIRT_URI=test://{}\n", front_end.root().join("node/node.xml").display());
        fs::write(front_end.host_remotes().join("etc/vmm/kvm/kvmrc"), uri).unwrap();
        let auth = front_end.var().join(".one");
        fs::create_dir_all(&auth).unwrap();
        fs::write(auth.join("one_auth"), "oneadmin:secret\n").unwrap();

        let recorded = Request::recorded("k-qcow2-01", "DEPLOY").unwrap();
        let deploy = recorded.map(|text| front_end.localized(text)).unwrap();
        deploy.write_deployment().unwrap();
        let api = Api::start().unwrap();
        let stage = Stage { front_end, api, deploy };
        stage.oned_says(|_| {});
        stage
    }

    /// Lets oned know the VM as the request has it, but for a change.
    fn oned_says(&self, change: impl Fn(&mut Element)) {
        let mut document = self.deploy.document.clone();
        change(document.find_mut("VM").unwrap());
        self.api.know_vm(0, &document.find("VM").unwrap().render());
        self.api.know_datastore(102, &document.find("DATASTORE").unwrap().render());
    }

    fn start(&self) -> Oned {
        let nest = self.front_end.driver("causeway-vmm", KVM).unwrap().env("ONE_XMLRPC", self.api.endpoint());
        let mut oned = Oned::start(&nest.with_packets()).unwrap();
        oned.init().unwrap();
        oned
    }

    /// Starts a DEPLOY and kills the driver while `slot` is at work.
    fn killed_in(&self, slot: &str) {
        self.at_work_in(slot).kill().unwrap();
        self.open_gate();
    }

    /// Starts a DEPLOY whose `slot` works until the gate is opened.
    fn at_work_in(&self, slot: &str) -> Oned {
        let gate = "until [ -e \"$home/gate\" ]; do sleep 0.05; done";
        let said = Answer::says(&format!("{GUEST}\n"));
        self.front_end.answer("vmm/kvm/deploy", &said).unwrap();
        self.front_end.answer_once(slot, &said.once_run(gate)).unwrap();
        let mut oned = self.start();
        oned.send("DEPLOY", 0, &self.deploy.render()).unwrap();
        let begun = Event::Begin(slot.to_owned());
        let limit = Instant::now() + Duration::from_secs(60);
        while !self.front_end.events().unwrap().contains(&begun) {
            assert!(Instant::now() < limit, "{slot} was not called");
            std::thread::sleep(Duration::from_millis(20));
        }
        oned
    }

    fn open_gate(&self) {
        fs::write(self.front_end.root().join("slots/gate"), "").unwrap();
    }

    fn slots(&self) -> Vec<String> {
        self.front_end.calls().unwrap().into_iter().map(|call| call.slot).collect()
    }
}

#[test]
fn a_deploy_whose_guest_came_up_is_finished_and_answered() {
    let stage = Stage::new(&[GUEST]);
    stage.killed_in("vmm/kvm/deploy");
    let mut oned = stage.start();
    oned.owe("DEPLOY", 0);
    // Nothing comes with the answer to INIT: oned would lose it.
    oned.listen(Duration::from_millis(1500));
    assert_eq!(oned.log(), []);
    let reply = oned.reply("DEPLOY", 0).unwrap();
    assert!(reply.is_success(), "{reply:?}");
    assert_eq!(reply.payload, GUEST);
    // What was left to do has been done, and the guest was started once.
    let slots = stage.slots();
    assert_eq!(slots.iter().filter(|slot| *slot == "vmm/kvm/deploy").count(), 1, "{slots:?}");
    assert_eq!(slots.last().unwrap(), "vnm/ovswitch_vxlan/post");
    assert!(!slots.contains(&"vmm/kvm/cancel".to_owned()), "{slots:?}");
    assert!(stage.api.queries().iter().any(|query| query.session == "oneadmin:secret"));
    oned.is_square().unwrap();
    oned.finalize().unwrap();

    // Answered is answered: the third process says nothing.
    let mut oned = stage.start();
    oned.listen(Duration::from_millis(3500));
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_reply_that_never_reached_oned_is_given_by_the_next_process() {
    let stage = Stage::new(&[GUEST]);
    let last = "vnm/ovswitch_vxlan/post";
    let mut oned = stage.at_work_in(last);
    oned.turn_deaf();
    stage.open_gate();
    // All that is left to do is the reply, which nobody reads; oned's other pipe is closed only then.
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(stage.slots().last().unwrap(), last);
    oned.close().unwrap();

    let mut oned = stage.start();
    oned.owe("DEPLOY", 0);
    let reply = oned.reply("DEPLOY", 0).unwrap();
    assert!(reply.is_success(), "{reply:?}");
    assert_eq!(reply.payload, GUEST);
    assert_eq!(stage.slots().iter().filter(|slot| *slot == "vmm/kvm/deploy").count(), 1);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_deploy_whose_guest_is_nowhere_is_undone_and_fails_and_a_retry_succeeds() {
    let stage = Stage::new(&[]);
    stage.killed_in("vnm/ovswitch_vxlan/pre");
    let mut oned = stage.start();
    oned.owe("DEPLOY", 0);
    let reply = oned.reply("DEPLOY", 0).unwrap();
    let undone = stage.slots().iter().any(|slot| slot.ends_with("/clean"));
    // Begun again from where it stood, or given up: but never half of it.
    assert!(reply.is_success() || undone, "{reply:?} {:?}", stage.slots());
    oned.is_square().unwrap();
    // `recover --retry` on the same state.
    stage.front_end.forget().unwrap();
    let again = oned.ask("DEPLOY", 0, &stage.deploy.render()).unwrap();
    assert!(again.is_success(), "{again:?}");
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn what_oned_does_not_wait_for_is_not_answered() {
    let changes: [(&str, Change); 2] = [
        ("the VM runs", |vm| vm.find_mut("LCM_STATE").unwrap().set_text(RUNNING)),
        ("another history record", |vm| vm.find_mut("HISTORY_RECORDS/HISTORY/SEQ").unwrap().set_text("7")),
    ];
    for (what, change) in changes {
        let stage = Stage::new(&[GUEST]);
        stage.killed_in("vmm/kvm/deploy");
        stage.oned_says(change);
        // What was at work on the host when the driver died comes to its end.
        std::thread::sleep(Duration::from_secs(1));
        let before = stage.slots();
        let mut oned = stage.start();
        oned.listen(Duration::from_secs(4));
        oned.is_square().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert!(!stage.api.queries().is_empty(), "{what}: oned was not asked");
        assert_eq!(stage.slots(), before, "{what}");
        oned.finalize().unwrap();
    }
}

#[test]
fn an_oned_that_cannot_be_asked_is_asked_again_and_a_new_request_waits() {
    let stage = Stage::new(&[GUEST]);
    stage.killed_in("vmm/kvm/deploy");
    stage.api.be_deaf(true);
    let mut oned = stage.start();
    oned.await_log(0, "can't be asked").unwrap();
    oned.owe("DEPLOY", 0);
    // Its VM is not touched meanwhile.
    let reboot = {
        let mut reboot = Request::recorded("k-vmm-01", "REBOOT").unwrap();
        reboot.set("VM/ID", "0").unwrap();
        reboot
    };
    oned.send("REBOOT", 0, &reboot.render()).unwrap();
    oned.listen(Duration::from_secs(1));
    assert!(!stage.slots().contains(&"vmm/kvm/reboot".to_owned()));
    stage.api.be_deaf(false);
    let deploy = oned.reply("DEPLOY", 0).unwrap();
    let rebooted = oned.reply("REBOOT", 0).unwrap();
    assert!(deploy.is_success() && rebooted.is_success() && deploy.at <= rebooted.at);
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn a_cancel_ends_an_adoption_without_an_answer() {
    let stage = Stage::new(&[GUEST]);
    stage.killed_in("vmm/kvm/deploy");
    stage.api.be_deaf(true);
    let mut oned = stage.start();
    oned.await_log(0, "can't be asked").unwrap();
    oned.cancel(0).unwrap();
    let cleanup = Request::recorded("k-fail-17", "CLEANUP").unwrap();
    let mut cleanup = cleanup.map(|text| stage.front_end.localized(text)).unwrap();
    cleanup.set("VM/ID", "0").unwrap();
    assert!(oned.ask("CLEANUP", 0, &cleanup.render()).unwrap().is_success());
    stage.api.be_deaf(false);
    oned.listen(Duration::from_secs(6));
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}

#[test]
fn the_journal_is_private_and_holds_no_secret() {
    use std::os::unix::fs::PermissionsExt;
    let stage = Stage::new(&[GUEST]);
    let mut stage = stage;
    stage.deploy.set("VM/TEMPLATE/CONTEXT/SSH_PUBLIC_KEY", "s3cret-of-the-owner").unwrap();
    let template = stage.deploy.element("DATASTORE/TEMPLATE").unwrap();
    template
        .nodes
        .push(causeway_suite::xml::Node::Element(Element::value("CEPH_KEY", "s3cret-of-the-store")));
    stage.killed_in("vmm/kvm/deploy");
    let directory = stage.front_end.var().join("causeway");
    let journal = directory.join("vmm.journal");
    assert_eq!(fs::metadata(&journal).unwrap().permissions().mode() & 0o777, 0o600);
    for file in fs::read_dir(directory).unwrap() {
        let path = file.unwrap().path();
        let text = String::from_utf8_lossy(&fs::read(&path).unwrap_or_default()).into_owned();
        assert!(!text.contains("s3cret"), "{}: {text}", path.display());
    }
}
