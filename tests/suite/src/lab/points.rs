//! Kill points, made from an action's plan: every process and cable that a step depends on, before, during and after it.
//!
//! Nothing is listed by hand. A step that is added to a plan, and a host that a step begins to need, have their points by
//! that alone.

use std::collections::BTreeSet;
use std::fmt;

use causeway_core::plan::{Goal, Place, Plan, Step};

use super::FRONT_END;

/// What breaks.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The driver process is killed; oned starts it again.
    Driver,
    /// Our resident on that host is killed.
    Resident(String),
    /// The processes of ssh sessions on that host are killed.
    Session(String),
    /// libvirtd is killed on that host, and started again after a while.
    Libvirtd(String),
    /// The guest's QEMU is killed on that host.
    Guest(String),
    /// That machine's cable is pulled out for a while.
    Link(String),
}

impl Fault {
    fn kind(&self) -> &'static str {
        match self {
            Fault::Driver => "driver",
            Fault::Resident(_) => "resident",
            Fault::Session(_) => "ssh session",
            Fault::Libvirtd(_) => "libvirtd",
            Fault::Guest(_) => "QEMU",
            Fault::Link(_) => "link",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Driver => f.write_str(self.kind()),
            Fault::Resident(place)
            | Fault::Session(place)
            | Fault::Libvirtd(place)
            | Fault::Guest(place)
            | Fault::Link(place) => write!(f, "{} of {place}", self.kind()),
        }
    }
}

/// When it breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The step is held before it begins.
    Before,
    /// It has begun.
    During,
    /// Its work is done, and nobody has been told.
    After,
}

impl Moment {
    /// All of them.
    pub const ALL: [Moment; 3] = [Moment::Before, Moment::During, Moment::After];

    /// The breakpoint's name.
    pub fn word(self) -> &'static str {
        match self {
            Moment::Before => "before",
            Moment::During => "during",
            Moment::After => "after",
        }
    }
}

/// One thing that breaks at one moment of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// The action, and who drives it where that is told apart.
    pub action: String,
    /// The step.
    pub step: String,
    /// Whether the hosts can be asked what came of the step.
    pub decisive: bool,
    /// Whether the step moves a guest: it then takes long enough to break in its midst.
    pub moves: bool,
    /// The machine on which it runs.
    pub place: String,
    /// What breaks.
    pub fault: Fault,
    /// When.
    pub moment: Moment,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {}", self.action, self.moment.word(), self.step, self.fault)
    }
}

/// Every point of a plan.
pub fn of_plan(plan: &Plan) -> Vec<Point> {
    let everywhere: BTreeSet<String> = plan.steps.iter().flat_map(hosts_of).collect();
    let delegated = plan.steps.iter().any(|step| matches!(step.place, Place::Delegated(_)));
    let action = format!("{}{}", plan.action, if delegated { " by an agent" } else { "" });
    let mut points = Vec::new();
    for step in &plan.steps {
        let place = step.place.host().map_or(FRONT_END, |host| host.as_str());
        let hosts = hosts_of(step);
        // A step on the front-end may rely on any of them.
        let hosts = if hosts.is_empty() { &everywhere } else { &hosts };
        for moment in Moment::ALL {
            for fault in faults(hosts) {
                points.push(Point {
                    action: action.clone(),
                    step: step.name.clone(),
                    decisive: step.goal.is_some(),
                    moves: matches!(step.goal, Some(Goal::RunsOn { from: Some(_), .. })),
                    place: place.to_owned(),
                    fault,
                    moment,
                });
            }
        }
    }
    points
}

fn hosts_of(step: &Step) -> BTreeSet<String> {
    let place = match &step.place {
        Place::FrontEnd => None,
        Place::Host(host) | Place::Delegated(host) => Some(host),
    };
    let (to, from) = match &step.goal {
        Some(Goal::RunsOn { host, from, .. }) => (Some(host), from.as_ref()),
        Some(Goal::Gone { host, .. }) => (Some(host), None),
        None => (None, None),
    };
    [place, to, from].into_iter().flatten().map(|host| host.as_str().to_owned()).collect()
}

fn faults(hosts: &BTreeSet<String>) -> Vec<Fault> {
    let of_host = [Fault::Resident, Fault::Session, Fault::Libvirtd, Fault::Guest, Fault::Link];
    let on_hosts = hosts.iter().flat_map(|host| of_host.iter().map(|fault| fault(host.clone())));
    [Fault::Driver, Fault::Link(FRONT_END.to_owned())].into_iter().chain(on_hosts).collect()
}

/// `count` of the points, spread so that every step, fault and moment is among them, and as many pairs of these as
/// possible, and of the steps that decide where a guest is as many triples; the same ones each time. Their places in
/// `points`, ascending.
pub fn spread(points: &[Point], count: usize) -> Vec<usize> {
    let mut seen = BTreeSet::new();
    let mut chosen = BTreeSet::new();
    while chosen.len() < count.min(points.len()) {
        let fresh = |point: &Point| aspects(point).iter().filter(|aspect| !seen.contains(*aspect)).count();
        let rest = points.iter().enumerate().filter(|(index, _)| !chosen.contains(index));
        // Among equals a scattered order, or one fault would always come at the same moment.
        let scattered = |index: usize| index.wrapping_mul(2_654_435_761) % 4_294_967_296;
        let Some((index, point)) = rest.max_by_key(|(index, point)| (fresh(point), scattered(*index))) else {
            break;
        };
        seen.extend(aspects(point));
        chosen.insert(index);
    }
    chosen.into_iter().collect()
}

/// What a point shows.
fn aspects(point: &Point) -> Vec<String> {
    let (fault, moment) = (point.fault.kind(), point.moment.word());
    let step = format!("{} {}", point.action, point.step);
    let mut aspects = vec![
        step.clone(),
        format!("{step} {fault}"),
        format!("{step} {moment}"),
        format!("{fault} {moment}"),
    ];
    if point.decisive {
        aspects.push(format!("{step} {fault} {moment}"));
    }
    aspects
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_core::names::VmId;
    use causeway_core::plan::{Answer, Work};
    use std::time::Duration;

    fn plan() -> Plan {
        let work = || Work::MakeDir { path: "/a".parse().unwrap() };
        let step = |name: &str, place| Step::new(name, place, work(), Duration::from_secs(1));
        let host = |name: &str| name.parse().unwrap();
        let goal = Goal::RunsOn { id: "one-7".parse().unwrap(), host: host("h2"), from: Some(host("h1")) };
        Plan {
            action: "MIGRATE".to_owned(),
            vm: VmId(7),
            deploy_id: None,
            steps: vec![
                step("here", Place::FrontEnd),
                step("pre", Place::Host(host("h2"))),
                step("migrate", Place::Host(host("h1"))).reaching(goal),
            ],
            inputs: Default::default(),
            answer: Answer::Empty,
            first_word: None,
            recall: None,
        }
    }

    #[test]
    fn each_step_is_broken_by_all_that_it_needs_at_each_moment() {
        let points = of_plan(&plan());
        // Driver and front-end's link, and five on each host: of the plan, of the step, of the step's goal.
        assert_eq!(points.len(), 3 * ((2 + 10) + (2 + 5) + (2 + 10)));
        let at = points.iter().filter(|p| p.step == "migrate" && p.fault == Fault::Guest("h2".to_owned()));
        assert_eq!(
            at.map(|p| (p.moment, p.place.as_str(), p.moves)).collect::<Vec<_>>(),
            [(Moment::Before, "h1", true), (Moment::During, "h1", true), (Moment::After, "h1", true)]
        );
        assert_eq!(points.iter().find(|p| p.step == "here").unwrap().place, "fe");
    }

    #[test]
    fn a_spread_covers_every_step_fault_and_moment() {
        let points = of_plan(&plan());
        let few = spread(&points, 30);
        assert_eq!(few.len(), 30);
        assert_eq!(few, spread(&points, 30));
        let any = |what: &dyn Fn(&Point) -> bool| few.iter().any(|index| what(&points[*index]));
        for step in ["here", "pre", "migrate"] {
            for moment in Moment::ALL {
                assert!(any(&|point| point.step == step && point.moment == moment), "{step} {moment:?}");
            }
        }
        for kind in ["driver", "resident", "ssh session", "libvirtd", "QEMU", "link"] {
            assert!(any(&|point| point.step == "migrate" && point.fault.kind() == kind), "{kind}");
        }
        assert_eq!(spread(&points, 1000).len(), points.len());
    }
}
