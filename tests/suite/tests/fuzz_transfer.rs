//! Transfer scripts and what oned says of their VMs, under attack: a line is refused or planned, and what is planned names
//! no path that leads elsewhere and no word that a tool or ssh could take for an option.

use causeway_core::document::{VmDocument, encode};
use causeway_core::plan::{Place, Slot, Work};
use causeway_core::settings::ShellRc;
use causeway_tm::facts::{BackupSource, DatastoreFacts, Facts, VmFacts};
use causeway_tm::place::{Image, Remote, VmDir, VmFile};
use causeway_tm::plan::{Stdin, stdin_of};
use causeway_tm::{CephSettings, Source, TmSettings, Transfer, built, needs, script, steps};
use serde_json::Value;

#[path = "../../fuzz/seeded.rs"]
mod seeded;

/// Looks at every text of a call.
fn check(value: &Value, key: &str) {
    match value {
        // What an admin has set, and the names of files inside of a context image.
        Value::String(_) if matches!(key, "options" | "names") => {}
        Value::String(text) => {
            assert!(!text.starts_with('-'), "{key}: {text:?}");
            assert!(!text.contains(char::is_control), "{key}: {text:?}");
            assert!(!text.split('/').any(|part| part == ".."), "{key}: {text:?}");
        }
        Value::Array(values) => values.iter().for_each(|value| check(value, key)),
        Value::Object(values) => values.iter().for_each(|(key, value)| check(value, key)),
        _ => {}
    }
}

fn check_all(transfer: &Transfer) {
    for step in &transfer.steps {
        if let Place::Host(host) = &step.place {
            assert!(!host.as_str().starts_with('-'));
        }
        if let Work::Transfer { call, inputs } = &step.work {
            check(call, "");
            assert!(inputs.iter().all(|name| transfer.inputs.contains_key(name)), "{step:?}");
        }
    }
    for source in transfer.inputs.values() {
        if let Source::File(path) = source {
            assert!(path.as_str().starts_with('/'));
        }
    }
}

/// What oned says: of the VM, and of datastores what the document of one may say.
fn facts(document: &[u8]) -> Facts {
    let vm = VmDocument::parse(document).ok().and_then(|vm| VmFacts::of(&vm).ok());
    let datastores = (0..300).map(|id| (id, DatastoreFacts::default())).collect();
    Facts { vm, datastores, ..Facts::default() }
}

/// A script, and behind its first line that begins with `<` the VM's document.
#[test]
fn fuzz_scripts() {
    let settings = TmSettings::default();
    seeded::fuzz("transfer", |bytes| {
        let end = bytes.windows(2).position(|two| two == b"\n<").map_or(bytes.len(), |at| at + 1);
        let (lines, document) = bytes.split_at(end);
        let commands = match script::parse(lines) {
            Ok(commands) => commands,
            Err(error) => return assert!(!error.to_string().contains('\n')),
        };
        let facts = facts(document);
        for command in commands.iter().filter(|command| built(&command.slot)) {
            if let Ok(needs) = needs(&command.slot, &command.argv) {
                let _ = needs.image(facts.vm.as_ref());
            }
            let stdin = match stdin_of(&command.slot) {
                Stdin::Nothing => String::new(),
                Stdin::Plain => String::from_utf8_lossy(document).into_owned(),
                Stdin::Encoded => encode(document),
            };
            match steps(&command.slot, &command.argv, stdin.as_bytes(), &facts, &settings) {
                Ok(transfer) => check_all(&transfer),
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }
    });
}

#[test]
fn fuzz_places() {
    seeded::fuzz("transfer", |bytes| {
        for word in String::from_utf8_lossy(bytes).split_ascii_whitespace() {
            if let Ok(place) = word.parse::<Remote>() {
                assert!(!place.host.as_str().starts_with('-') && place.path.as_str().starts_with('/'));
            }
            let at = word.find('/').and_then(|at| word.get(at..)).unwrap_or_default();
            if let Ok(file) = at.parse::<VmFile>() {
                assert_eq!(file.to_string().parse(), Ok(file.clone()));
                assert!(
                    file.path().starts_with(file.dir().path())
                        && file.path().parent() == Some(&file.dir().path())
                );
            }
            if let Ok(dir) = at.parse::<VmDir>() {
                assert_eq!(dir.path().parent(), Some(&*dir.datastore().path()));
            }
            if let Ok(image) = at.parse::<Image>() {
                assert_eq!(image.path().parent(), Some(&*image.datastore().path()));
            }
        }
    });
}

const RESTORED: &str = "<VM><ID>4</ID><TEMPLATE><DISK><DISK_ID>0</DISK_ID><CLONE>YES</CLONE><FORMAT>qcow2</FORMAT>\
    <SIZE>1024</SIZE><SOURCE>/var/lib/one/datastores/1/abc</SOURCE></DISK><DISK><DISK_ID>2</DISK_ID><CLONE>NO</CLONE>\
    <SAVE>YES</SAVE><FORMAT>raw</FORMAT><SIZE>16</SIZE><SOURCE>/var/lib/one/datastores/1/def</SOURCE></DISK></TEMPLATE></VM>";
const BACKUP: &str = "<IMAGE><ID>19</ID><DATASTORE_ID>110</DATASTORE_ID><SOURCE>75ef</SOURCE></IMAGE>";
const STORE: &str = "<DATASTORE><ID>110</ID><DS_MAD>rsync</DS_MAD></DATASTORE>";

/// The arguments in the first line, and then what a backup datastore's driver answers to `ls`.
#[test]
fn fuzz_restores() {
    use causeway_tm::datastore::Front;
    let front = Front {
        downloader: "/stock/downloader.sh".into(),
        restricted: Vec::new(),
        ssh: vec!["ssh".into()],
        receiver: "receive".into(),
        sender: String::new(),
        now: 1_369_353_600,
    };
    let settings = TmSettings { front: Some(front), ..TmSettings::default() };
    let slots = ["tm/qcow2/restore", "tm/ceph/restore"];
    let slots = slots.map(|slot| slot.parse::<Slot>().unwrap_or_else(|error| panic!("{error}")));
    seeded::fuzz("restore", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let (argv, listing) = text.split_once('\n').unwrap_or((&text, ""));
        let argv: Vec<String> = argv.split_ascii_whitespace().map(str::to_owned).collect();
        let backup = BackupSource::of(RESTORED, BACKUP, STORE).ok();
        let mut facts = Facts { backup, ..facts(RESTORED.as_bytes()) };
        assert!(facts.vm.is_some() && facts.backup.is_some());
        if facts.take_reading(listing).is_err() {
            return;
        }
        for slot in &slots {
            let Ok(transfer) = steps(slot, &argv, b"", &facts, &settings) else { continue };
            check_all(&transfer);
            // The script of the stock release makes a command line of an address.
            let text = serde_json::to_string(&transfer.steps).unwrap_or_default();
            for address in text.split("\"address\":\"").skip(1).filter_map(|rest| rest.split('"').next()) {
                assert!(
                    !address.contains(|c: char| c.is_whitespace() || "'\\`<>|{}^".contains(c)),
                    "{address:?}"
                );
            }
        }
    });
}

/// The documents that a backup datastore's driver is handed are those that oned wrote.
#[test]
fn fuzz_backups_documents() {
    seeded::fuzz("document", |bytes| {
        let text = String::from_utf8_lossy(bytes);
        let _ = BackupSource::datastore_of(&text);
        let _ = DatastoreFacts::parse(1, bytes);
        for source in [BackupSource::of(&text, BACKUP, STORE), BackupSource::of(RESTORED, BACKUP, &text)] {
            let Ok(source) = source else { continue };
            let question = source.question(Some(3));
            let root = causeway_core::document::parse(question.as_bytes());
            let root = root.unwrap_or_else(|error| panic!("{error} in {question}"));
            let names: Vec<&str> = root.elements().map(|child| child.name()).collect();
            assert_eq!(names, ["DATASTORE", "VM", "IMAGE", "TEMPLATE"]);
            assert!(!source.driver().contains('/'));
        }
    });
}

#[test]
fn fuzz_settings_of_storage() {
    seeded::fuzz("kvmrc", |bytes| {
        let rc = ShellRc::parse("rc", &String::from_utf8_lossy(bytes));
        if let Ok(settings) = TmSettings::read(&rc, &rc, &rc) {
            let names = settings.file_systems.keys();
            assert!(names.clone().all(|name| name.bytes().all(|b| b.is_ascii_alphanumeric())));
            // What is made of them has an end.
            let argv = ["h1:/ds/0/7", "0", "-", "-", "7", "0"].map(str::to_owned);
            let slot: Slot = "tm/qcow2/prebackup_live".parse().unwrap_or_else(|error| panic!("{error}"));
            let document = b"<VM><ID>7</ID></VM>";
            let _ = steps(&slot, &argv, document, &facts(document), &settings);
        }
        if let Ok(ceph) = CephSettings::read(&rc) {
            assert!(ceph.staging.is_absolute() && !ceph.pool.as_str().starts_with('-'));
        }
    });
}
