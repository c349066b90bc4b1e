//! A host that ssh reaches, and that has not our program.

use std::process::ExitStatus;

use crate::answer::{Failure, Kind};

/// What a shell ends with that can't start a program, because it may not or because there is none. ssh ends as what it ran
/// did, and with 255 for reasons of its own.
const NOT_STARTED: [i32; 2] = [126, 127];

/// What the names of our programs on a host begin with.
const OURS: &str = "/causeway-";

/// Why a session ended without a word of ours, if `command` could not be started on that host. Another try does no better.
pub fn not_started(status: ExitStatus, host: &str, command: &str) -> Option<Failure> {
    let code = status.code().filter(|code| NOT_STARTED.contains(code))?;
    let program = program(command);
    let why = if code == 127 {
        format!("{host} has no {program}: run `install.sh host` there")
    } else {
        format!("{host} may not start {program}: run `install.sh host` there again")
    };
    Some(Failure::new(Kind::HostState, why))
}

/// The program in what a remote shell runs: `exec /usr/libexec/causeway/causeway-host resident`, perhaps quoted.
fn program(command: &str) -> &str {
    let words = || command.split(|c: char| c.is_whitespace() || "'\"\\".contains(c));
    let ours = |word: &str| {
        word.rfind('/').is_some_and(|at| word.get(at..).is_some_and(|name| name.starts_with(OURS)))
    };
    let named = words().find(|word| ours(word));
    named.or_else(|| words().find(|word| word.starts_with('/'))).unwrap_or(command)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_shell_s_status_tells_and_ssh_s_own_does_not() {
        let of = |code: i32| {
            not_started(ExitStatus::from_raw(code << 8), "h1", "exec /x/causeway-host carry sink")
        };
        let absent = of(127).unwrap();
        assert_eq!(absent.kind, Kind::HostState);
        assert_eq!(absent.text, "h1 has no /x/causeway-host: run `install.sh host` there");
        assert_eq!(
            of(126).unwrap().text,
            "h1 may not start /x/causeway-host: run `install.sh host` there again"
        );
        assert!([0, 1, 6, 255].into_iter().all(|code| of(code).is_none()));
        assert_eq!(not_started(ExitStatus::from_raw(15), "h1", ""), None);
    }

    #[test]
    fn the_program_is_found_however_it_is_quoted() {
        for command in [
            "exec /x/causeway-disks resident --remotes /causeway-x/one",
            "exec '/x/causeway-disks' receive",
            "/bin/ksh -c 'exec '\\''/x/causeway-disks'\\'' send'",
        ] {
            assert_eq!(program(command), "/x/causeway-disks", "{command}");
        }
        assert_eq!((program("exec /x/y z"), program("ls")), ("/x/y", "ls"));
    }
}
