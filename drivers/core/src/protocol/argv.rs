//! The arguments of a driver process (contracts VMM 1.1, 1.2, TM 1.1).
//!
//! oned passes the whole `ARGUMENTS` string as one argument and the stock wrapper splits it on blanks; quotes mean
//! nothing to it, nor to us. A program started by hand gets the same words as separate arguments.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::document::DriverName;
use crate::names::NameError;

/// Why the arguments are refused; the option is named as it came.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArgvError {
    /// An option that the driver does not have.
    #[error("unknown option {0}")]
    Unknown(String),
    /// An option without its value.
    #[error("option {0} needs a value")]
    NoValue(String),
    /// A value for an option that takes none.
    #[error("option {0} takes no value")]
    Surplus(String),
    /// A value that the option does not take.
    #[error("option {option}: {value:?} is not {accepted}")]
    Value {
        /// The option.
        option: String,
        /// The value.
        value: String,
        /// The accepted form.
        accepted: String,
    },
    /// No hypervisor.
    #[error("the hypervisor is missing, for example kvm")]
    NoHypervisor,
    /// A word too many.
    #[error("unexpected word {0:?}")]
    Word(String),
}

/// The options of the virtual machine manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DriverOptions {
    /// `-t`: how many requests are served at once.
    pub threads: u16,
    /// `-r`: how often a step outside of the shared session is tried again.
    pub retries: u16,
    /// `-l`: steps that run on the front-end, in lower case, each with the script that takes its place.
    pub local: BTreeMap<String, Option<DriverName>>,
    /// `-d`: actions whose session forwards the agent.
    pub delegate: Vec<String>,
    /// `-p`: several requests per host at once.
    pub parallel: bool,
    /// `-s`: the remote shell of foreign steps.
    pub shell: String,
    /// `-w`: the deadline of a virtual machine manager's step.
    pub timeout: Option<Duration>,
    /// The directory of the hypervisor's scripts.
    pub hypervisor: DriverName,
}

/// The options of the transfer manager.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TmOptions {
    /// `-t`: how many transfers run at once.
    pub threads: u16,
    /// `-d`: the transfer managers that may be used; `None` means every one there is.
    pub tm_types: Option<Vec<DriverName>>,
    /// `-w`: the deadline of a step.
    pub timeout: Option<Duration>,
}

/// An option: short, long, and whether it takes a value.
type Spec = (char, &'static str, bool);

const VMM: [Spec; 7] = [
    ('t', "threads", true),
    ('r', "retries", true),
    ('l', "local", true),
    ('d', "delegate", true),
    ('p', "parallel", false),
    ('s', "shell", true),
    ('w', "timeout", true),
];

const TM: [Spec; 3] = [('t', "threads", true), ('d', "tm-types", true), ('w', "timeout", true)];

/// A word of the command line, understood.
enum Item {
    Option { short: char, spelled: String, value: String },
    Word(String),
}

/// Whether a name of `-d` is that of the action: `attach_disk` of `ATTACHDISK`. The stock driver's names have
/// underscores where oned's words have none.
pub fn delegates(name: &str, action: &str) -> bool {
    let bare = |text: &str| text.replace('_', "").to_ascii_lowercase();
    bare(name) == bare(action)
}

impl DriverOptions {
    /// Reads the arguments after the program's name, each split on blanks once more.
    ///
    /// # Errors
    /// [`ArgvError`], which names the option.
    pub fn parse<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Result<Self, ArgvError> {
        let mut hypervisor = None;
        let mut options = DriverOptions {
            threads: 15,
            retries: 0,
            local: BTreeMap::new(),
            delegate: vec!["migrate".to_owned()],
            parallel: false,
            shell: "bash".to_owned(),
            timeout: None,
            hypervisor: name("hypervisor", "kvm")?,
        };
        for item in items(args, &VMM)? {
            match item {
                Item::Word(word) if hypervisor.is_some() => return Err(ArgvError::Word(word)),
                Item::Word(word) => hypervisor = Some(name("hypervisor", &word)?),
                Item::Option { short, spelled, value } => match short {
                    't' => options.threads = number(&spelled, &value, 1, 1024)?,
                    'r' => options.retries = number(&spelled, &value, 0, 100)?,
                    'l' => options.local = local(&spelled, &value)?,
                    'd' => options.delegate = list(&value).map(str::to_ascii_lowercase).collect(),
                    's' => options.shell = shell(&spelled, value)?,
                    'w' => options.timeout = timeout(&spelled, &value)?,
                    _ => options.parallel = true,
                },
            }
        }
        options.hypervisor = hypervisor.ok_or(ArgvError::NoHypervisor)?;
        Ok(options)
    }
}

impl TmOptions {
    /// Reads the arguments after the program's name, each split on blanks once more.
    ///
    /// # Errors
    /// [`ArgvError`], which names the option.
    pub fn parse<S: AsRef<str>>(args: impl IntoIterator<Item = S>) -> Result<Self, ArgvError> {
        let mut options = TmOptions { threads: 15, tm_types: None, timeout: None };
        for item in items(args, &TM)? {
            match item {
                Item::Word(word) => return Err(ArgvError::Word(word)),
                Item::Option { short, spelled, value } => match short {
                    't' => options.threads = number(&spelled, &value, 1, 1024)?,
                    'd' => {
                        let names = list(&value).map(|word| name(&spelled, word));
                        options.tm_types = Some(names.collect::<Result<_, _>>()?);
                    }
                    _ => options.timeout = timeout(&spelled, &value)?,
                },
            }
        }
        Ok(options)
    }
}

/// Splits the arguments into options with their values and plain words.
fn items<S: AsRef<str>>(args: impl IntoIterator<Item = S>, specs: &[Spec]) -> Result<Vec<Item>, ArgvError> {
    let args: Vec<S> = args.into_iter().collect();
    let mut words = args.iter().flat_map(|arg| arg.as_ref().split_ascii_whitespace());
    let mut items = Vec::new();
    while let Some(word) = words.next() {
        if !word.starts_with('-') || word == "-" {
            items.push(Item::Word(word.to_owned()));
            continue;
        }
        let (spec, spelled, attached) = option(word, specs)?;
        let value = match (spec.2, attached) {
            (true, Some(value)) => value,
            (true, None) => words.next().ok_or_else(|| ArgvError::NoValue(spelled.clone()))?,
            (false, None) => "",
            (false, Some(_)) => return Err(ArgvError::Surplus(spelled)),
        };
        items.push(Item::Option { short: spec.0, spelled, value: value.to_owned() });
    }
    Ok(items)
}

/// Finds the option of `--long`, `--long=value`, `-x` or `-xvalue`: which, as spelled, and the value in the same word.
fn option<'a>(word: &'a str, specs: &[Spec]) -> Result<(Spec, String, Option<&'a str>), ArgvError> {
    let unknown = || ArgvError::Unknown(word.to_owned());
    if let Some(long) = word.strip_prefix("--") {
        let (long, value) = match long.split_once('=') {
            Some((long, value)) => (long, Some(value)),
            None => (long, None),
        };
        let spec = specs.iter().find(|spec| spec.1 == long).ok_or_else(unknown)?;
        return Ok((*spec, format!("--{long}"), value));
    }
    let mut chars = word.trim_start_matches('-').chars();
    let short = chars.next().ok_or_else(unknown)?;
    let spec = specs.iter().find(|spec| spec.0 == short).ok_or_else(unknown)?;
    let value = chars.as_str();
    // Options without a value are not bundled: `-pt 5` is a mistake worth naming.
    if !spec.2 && !value.is_empty() {
        return Err(unknown());
    }
    Ok((*spec, format!("-{short}"), Some(value).filter(|value| !value.is_empty())))
}

fn bad(option: &str, value: &str, accepted: impl Into<String>) -> ArgvError {
    ArgvError::Value { option: option.to_owned(), value: value.to_owned(), accepted: accepted.into() }
}

fn number(option: &str, value: &str, low: u16, high: u16) -> Result<u16, ArgvError> {
    let digits = value.bytes().all(|b| b.is_ascii_digit());
    let number = value.parse::<u16>().ok().filter(|n| digits && (low..=high).contains(n));
    number.ok_or_else(|| bad(option, value, format!("a number from {low} to {high}")))
}

fn timeout(option: &str, value: &str) -> Result<Option<Duration>, ArgvError> {
    let seconds = number(option, value, 0, u16::MAX)?;
    // Zero is how administrators write "none".
    Ok((seconds > 0).then(|| Duration::from_secs(seconds.into())))
}

fn name(option: &str, value: &str) -> Result<DriverName, ArgvError> {
    value.parse().map_err(|error: NameError| bad(option, value, error.accepted))
}

/// A shell is named, or given by its path.
fn shell(option: &str, value: String) -> Result<String, ArgvError> {
    let word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'/');
    if !value.is_empty() && value.bytes().all(word) && !value.starts_with('-') {
        return Ok(value);
    }
    Err(bad(option, &value, "the name or path of a shell"))
}

fn list(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(str::trim).filter(|word| !word.is_empty())
}

fn local(option: &str, value: &str) -> Result<BTreeMap<String, Option<DriverName>>, ArgvError> {
    let mut steps = BTreeMap::new();
    for item in list(value) {
        let (step, script) = match item.split_once('=') {
            Some((step, script)) => (step, Some(name(option, script)?)),
            None => (item, None),
        };
        let step = name(option, step)?;
        steps.insert(step.as_str().to_ascii_lowercase(), script);
    }
    Ok(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vmm(argument: &str) -> DriverOptions {
        DriverOptions::parse([argument]).unwrap_or_else(|error| panic!("{argument}: {error}"))
    }

    #[test]
    fn the_shipped_arguments() {
        let kvm = vmm("-t 15 -r 0 kvm -p");
        assert_eq!((kvm.threads, kvm.retries, kvm.parallel), (15, 0, true));
        assert_eq!((kvm.hypervisor.as_str(), kvm.shell.as_str()), ("kvm", "bash"));
        assert_eq!((kvm.delegate, kvm.timeout), (vec!["migrate".to_owned()], None));
        assert!(!vmm("-t 15 -r 0 kvm").parallel);
        let tm =
            TmOptions::parse(["-t 15 -d dummy,lvm,shared,fs_lvm,fs_lvm_ssh,qcow2,ssh,local,ceph"]).unwrap();
        assert_eq!((tm.threads, tm.tm_types.unwrap().len()), (15, 9));
        assert_eq!(TmOptions::parse([""]).unwrap().tm_types, None);
    }

    #[test]
    fn every_spelling() {
        let spelled =
            vmm("kvm --threads=7 -r3 --local deploy=mine,SAVE --delegate=Migrate,save -s sh --timeout 90");
        assert_eq!((spelled.threads, spelled.retries), (7, 3));
        assert_eq!(spelled.local["deploy"].as_ref().unwrap().as_str(), "mine");
        assert_eq!(spelled.local["save"], None);
        assert_eq!(spelled.delegate, ["migrate", "save"]);
        assert_eq!(spelled.timeout, Some(Duration::from_secs(90)));
        assert!(delegates("attach_disk", "ATTACHDISK") && delegates("exec_cancel", "EXEC_CANCEL"));
        assert!(delegates("migrate", "MIGRATE") && !delegates("attach", "ATTACHDISK"));
        assert_eq!(vmm("-w 0 kvm").timeout, None);
        // By hand: one argument each.
        assert_eq!(DriverOptions::parse(["-t", "15", "kvm", "-p"]).unwrap(), vmm("-t 15 kvm -p"));
    }

    #[test]
    fn errors_name_the_option() {
        for (argument, message) in [
            ("kvm -i", "unknown option -i"),
            ("kvm --thread 3", "unknown option --thread"),
            ("kvm -pt 3", "unknown option -pt"),
            ("kvm -t", "option -t needs a value"),
            ("kvm --parallel=yes", "option --parallel takes no value"),
            ("kvm -t many", "option -t: \"many\" is not a number from 1 to 1024"),
            ("kvm --threads=0", "option --threads: \"0\" is not a number from 1 to 1024"),
            ("kvm -t +5", "option -t: \"+5\" is not a number from 1 to 1024"),
            ("kvm lxc", "unexpected word \"lxc\""),
            ("-t 15", "the hypervisor is missing, for example kvm"),
            ("", "the hypervisor is missing, for example kvm"),
        ] {
            assert_eq!(DriverOptions::parse([argument]).unwrap_err().to_string(), message);
        }
        for argument in ["../kvm", "kvm -l deploy=../x", "kvm -l a/b", "kvm -s /bin/sh;x", "kvm \"-p\""] {
            assert!(DriverOptions::parse([argument]).is_err(), "{argument}");
        }
        let error = TmOptions::parse(["-d qcow2,../x"]).unwrap_err().to_string();
        assert!(error.starts_with("option -d: \"../x\" is not "), "{error}");
    }
}
