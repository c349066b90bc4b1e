//! A command as a list of arguments with named places, never a shell line.
//!
//! `{from}`, `{to}`, `{deploy_id}`, `{address}` and `{move}` stand for what differs from move to move; `{{` and `}}` are
//! the braces themselves. What is put in a place stays inside its argument, whatever characters it has.

use std::fmt;

/// What a place in a command stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The host the guest leaves.
    From,
    /// The host the guest goes to.
    To,
    /// The guest's deploy id.
    DeployId,
    /// The guest's address.
    Address,
    /// The move's number, from 1.
    Move,
}

impl Place {
    const ALL: [Place; 5] = [Place::From, Place::To, Place::DeployId, Place::Address, Place::Move];

    /// The name between the braces.
    pub fn name(self) -> &'static str {
        match self {
            Place::From => "from",
            Place::To => "to",
            Place::DeployId => "deploy_id",
            Place::Address => "address",
            Place::Move => "move",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{}}}", self.name())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

/// A command with places to fill.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argv {
    arguments: Vec<Vec<Part>>,
}

/// The accepted form, for messages.
pub const ACCEPTED: &str = "a list of 1 to 256 arguments, the first an executable, with no places but {from}, {to}, \
     {deploy_id}, {address} and {move}; {{ and }} stand for braces";

impl Argv {
    /// Reads a command; `None` if it is empty, too long, or has a place that means nothing.
    pub fn parse(arguments: &[String]) -> Option<Argv> {
        let executable = arguments.first()?;
        if executable.is_empty() || arguments.len() > 256 {
            return None;
        }
        let arguments = arguments.iter().map(|text| parse_argument(text)).collect::<Option<Vec<_>>>()?;
        Some(Argv { arguments })
    }

    /// The first place of the command that `is_known` denies.
    pub fn unknown_place(&self, is_known: impl Fn(Place) -> bool) -> Option<Place> {
        self.arguments.iter().flatten().find_map(|part| match part {
            Part::Place(place) if !is_known(*place) => Some(*place),
            _ => None,
        })
    }

    /// The command with `value` put into each place.
    pub fn fill(&self, value: impl Fn(Place) -> String) -> Vec<String> {
        let argument = |parts: &Vec<Part>| {
            parts
                .iter()
                .map(|part| match part {
                    Part::Text(text) => text.clone(),
                    Part::Place(place) => value(*place),
                })
                .collect()
        };
        self.arguments.iter().map(argument).collect()
    }
}

fn parse_argument(text: &str) -> Option<Vec<Part>> {
    // A NUL cannot be passed to a program at all.
    if text.contains('\0') {
        return None;
    }
    let mut parts = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        let (before, from_brace) = rest.split_at_checked(at)?;
        plain.push_str(before);
        if let Some(after) = from_brace.strip_prefix("{{") {
            plain.push('{');
            rest = after;
        } else if let Some(after) = from_brace.strip_prefix("}}") {
            plain.push('}');
            rest = after;
        } else {
            let (name, after) = from_brace.strip_prefix('{')?.split_once('}')?;
            let place = Place::ALL.into_iter().find(|place| place.name() == name)?;
            if !plain.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut plain)));
            }
            parts.push(Part::Place(place));
            rest = after;
        }
    }
    plain.push_str(rest);
    if !plain.is_empty() {
        parts.push(Part::Text(plain));
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn argv(list: &[&str]) -> Option<Argv> {
        Argv::parse(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn places_are_filled_inside_their_argument() {
        let argv = argv(&["virsh", "-c", "qemu+tcp://{from}/system", "{{{to}}}", "", "{move}"]).unwrap();
        let filled = argv.fill(|place| match place {
            Place::From => "h1; rm -rf /".to_owned(),
            other => other.name().to_uppercase(),
        });
        assert_eq!(filled, ["virsh", "-c", "qemu+tcp://h1; rm -rf //system", "{TO}", "", "MOVE"]);
        assert_eq!(argv.unknown_place(|p| p != Place::To), Some(Place::To));
        assert_eq!(argv.unknown_place(|_| true), None);
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for list in [
            &[][..],
            &[""],
            &["x", "{"],
            &["x", "}"],
            &["x", "{From}"],
            &["x", "{}"],
            &["x", "{to"],
            &["x", "a}b"],
            &["x", "{{to}"],
            &["x", "a\0b"],
        ] {
            assert_eq!(argv(list), None, "{list:?}");
        }
        assert!(Argv::parse(&vec!["x".to_owned(); 257]).is_none());
    }

    proptest! {
        #[test]
        fn text_without_braces_passes_unchanged(list in prop::collection::vec("[^{}\0]{1,20}", 1..10)) {
            let argv = Argv::parse(&list).unwrap();
            prop_assert_eq!(argv.fill(|_| unreachable!()), list);
        }

        #[test]
        fn escaped_text_comes_back(text in "[a{} ]{1,20}") {
            let escaped = text.replace('{', "{{").replace('}', "}}");
            let argv = Argv::parse(&["x".to_owned(), escaped]).unwrap();
            prop_assert_eq!(&argv.fill(|_| unreachable!())[1], &text);
        }

        #[test]
        fn no_text_breaks_the_reader(text in "\\PC{0,30}") {
            let _ = Argv::parse(&["x".to_owned(), text]);
        }
    }
}
