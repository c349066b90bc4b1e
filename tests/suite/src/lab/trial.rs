//! Breaks one thing at one moment of one action on a real guest, and judges what came of it.
//!
//! What is held against the driver after each trial:
//! * exactly one reply, from the process that was started anew where the old one was killed;
//! * the guest runs where the reply says and nowhere else; only one that was killed itself may run nowhere;
//! * its own verifier finds no lost write;
//! * a failed action left nothing on the host that it was for;
//! * an admin's retry succeeds.

use std::thread::sleep;
use std::time::{Duration, Instant};

use super::breakpoints::Breakpoint;
use super::driver::Driver;
use super::points::{Fault, Moment, Point, of_plan};
use super::strike::{Outage, mend, strike, until_reached};
use super::truth::{Whereabouts, nothing_left, whereabouts};
use super::{HOSTS, Lab, LabError, guest};
use crate::oned::Reply;
use crate::request::{Guest, Request};

/// How far into a move it is broken.
const MIDST: Duration = Duration::from_millis(700);

/// How long libvirt may take to notice that a guest's process was killed.
const REAPED: Duration = Duration::from_secs(20);

/// A series of trials on one guest.
pub struct Trials<'a> {
    lab: &'a Lab,
    guest: Guest,
    driver: Driver<'a>,
    /// The host on which the guest runs.
    at: Option<usize>,
    outage: Outage,
    /// Whether a guest that was only started is waited for and asked too.
    thorough: bool,
}

/// What is tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// DEPLOY.
    Deploy,
    /// MIGRATE.
    Migrate,
}

/// What came of it.
#[derive(Debug)]
pub struct Verdict {
    /// The point.
    pub point: Point,
    /// Whether there was anything to break.
    pub struck: bool,
    /// The reply.
    pub success: bool,
    /// Its text.
    pub text: String,
}

impl<'a> Trials<'a> {
    /// Trials on `guest`, which is nowhere yet, in a lab whose breakpoints are installed.
    ///
    /// # Errors
    /// The driver process does not start.
    pub fn new(lab: &'a Lab, guest: Guest, outage: Outage, thorough: bool) -> Result<Trials<'a>, LabError> {
        guest::prepare(lab, &guest)?;
        // An earlier one is of no harm.
        lab.run(&["observer-off"])?;
        lab.run(&["observer", &guest::VNI.to_string(), guest::OBSERVER])?;
        let driver = Driver::start(lab)?;
        Ok(Trials { lab, guest, driver, at: None, outage, thorough })
    }

    /// The driver process, to be configured.
    pub fn driver(&mut self) -> &mut Driver<'a> {
        &mut self.driver
    }

    /// The points of an action as its plan is now. Those of a migration are as many in both directions.
    ///
    /// # Errors
    /// It can't be planned.
    pub fn points(&self, action: Action) -> Result<Vec<Point>, LabError> {
        Ok(of_plan(&self.driver.plan(&self.request(action)?)?))
    }

    fn request(&self, action: Action) -> Result<Request, LabError> {
        let (from, to) = self.way();
        Ok(match action {
            Action::Deploy => self.guest.deploy(from)?,
            Action::Migrate => self.guest.migrate(from, to)?,
        })
    }

    /// From where the guest is, to the other host.
    fn way(&self) -> (&'static str, &'static str) {
        let [first, second] = HOSTS;
        if self.at == Some(1) { (second, first) } else { (first, second) }
    }

    /// Tries the point at that place of [`points`](Trials::points).
    ///
    /// # Errors
    /// A promise is broken, or the means are; with the driver's last words.
    pub fn run(&mut self, action: Action, index: usize) -> Result<Verdict, LabError> {
        match action {
            Action::Deploy => self.bring_down()?,
            Action::Migrate => self.bring_up()?,
        }
        let points = self.points(action)?;
        let point = points.into_iter().nth(index);
        let point = point.ok_or_else(|| LabError::Promise(format!("the plan has no point {index}")))?;
        let tried = self.attempt(action, &point);
        tried.map_err(|error| LabError::Promise(format!("{point}: {error}; {}", self.last_words())))
    }

    fn attempt(&mut self, action: Action, point: &Point) -> Result<Verdict, LabError> {
        let request = self.request(action)?;
        let (reply, struck) = self.break_in(&request, point)?;
        self.driver.oned()?.is_square()?;
        let killed = struck && matches!(point.fault, Fault::Guest(_));
        match action {
            Action::Deploy => self.after_deploy(&request, &reply, killed)?,
            Action::Migrate => self.after_migrate(&request, &reply, killed)?,
        }
        self.driver.oned()?.is_square()?;
        Ok(Verdict { point: point.clone(), struck, success: reply.is_success(), text: reply.payload })
    }

    /// Has the action run into the fault; its reply.
    fn break_in(&mut self, request: &Request, point: &Point) -> Result<(Reply, bool), LabError> {
        let held = Breakpoint::set(self.lab, &point.place, &point.step, point.moment.word())?;
        self.driver.send(request)?;
        held.wait()?;
        if point.moves && point.moment == Moment::During {
            sleep(MIDST);
        }
        let struck = strike(self.lab, &self.guest, &point.fault)?;
        if point.fault == Fault::Driver {
            let heard = self.driver.kill(request)?;
            drop(held);
            self.driver.restart(request, heard.is_some())?;
            return Ok((heard.map_or_else(|| self.driver.reply(request), Ok)?, struck));
        }
        drop(held);
        mend(self.lab, &point.fault, self.outage)?;
        let reply = self.driver.reply(request)?;
        if matches!(point.fault, Fault::Link(_)) {
            // The next trial is not to meet what is left of this outage.
            until_reached(self.lab)?;
        }
        Ok((reply, struck))
    }

    fn after_deploy(&mut self, request: &Request, reply: &Reply, killed: bool) -> Result<(), LabError> {
        let (host, _) = self.way();
        let seen = self.look(killed)?;
        let truth = if reply.is_success() { seen.is_only_on(host) } else { seen.is_nowhere() };
        let died = killed && seen.is_nowhere();
        if !(truth || died) {
            return self.lie(reply, &seen);
        }
        if !reply.is_success() {
            nothing_left(self.lab, host)?;
        }
        let again = self.driver.succeed(request)?;
        if again.payload != self.guest.uuid {
            return LabError::promise(format!("the retry answered {:?}", again.payload));
        }
        let seen = self.look(false)?;
        if !seen.is_only_on(host) {
            return self.lie(&again, &seen);
        }
        self.at = Some(0);
        if self.thorough {
            guest::wait(self.lab)?;
            guest::verify(self.lab)?;
        }
        Ok(())
    }

    fn after_migrate(&mut self, request: &Request, reply: &Reply, killed: bool) -> Result<(), LabError> {
        let (from, to) = self.way();
        let seen = self.look(killed)?;
        if killed && seen.is_nowhere() {
            self.at = None;
            let cleanup = self.guest.cleanup(from, Some(to))?;
            self.driver.succeed(&cleanup)?;
            return self.bring_up();
        }
        if !seen.is_only_on(if reply.is_success() { to } else { from }) {
            return self.lie(reply, &seen);
        }
        guest::verify(self.lab)?;
        if !reply.is_success() {
            nothing_left(self.lab, to)?;
            let again = self.driver.succeed(request)?;
            let seen = self.look(false)?;
            if !seen.is_only_on(to) {
                return self.lie(&again, &seen);
            }
            guest::verify(self.lab)?;
        }
        self.at = self.at.map(|at| 1 - at);
        nothing_left(self.lab, from)
    }

    /// Where the guest is; one whose process was killed is given time to be missed.
    fn look(&self, killed: bool) -> Result<Whereabouts, LabError> {
        let start = Instant::now();
        loop {
            let seen = whereabouts(self.lab, &self.guest)?;
            if !killed || seen.otherwise.is_empty() || start.elapsed() > REAPED {
                return Ok(seen);
            }
            sleep(Duration::from_millis(100));
        }
    }

    fn lie<T>(&self, reply: &Reply, seen: &Whereabouts) -> Result<T, LabError> {
        let (status, text) = (&reply.status, &reply.payload);
        LabError::promise(format!("answered {status} {text:?}, but the guest is: {seen:?}"))
    }

    /// Sees to it that the guest runs.
    fn bring_up(&mut self) -> Result<(), LabError> {
        if self.at.is_none() {
            let deploy = self.request(Action::Deploy)?;
            self.driver.succeed(&deploy)?;
            self.at = Some(0);
            guest::wait(self.lab)?;
        }
        Ok(())
    }

    /// Sees to it that nothing of the guest is left on any host.
    fn bring_down(&mut self) -> Result<(), LabError> {
        if let Some(at) = self.at.take() {
            let host = HOSTS.get(at).copied().unwrap_or_default();
            let cancel = self.guest.cancel(host)?;
            self.driver.succeed(&cancel)?;
        }
        HOSTS.iter().try_for_each(|host| nothing_left(self.lab, host))
    }

    /// Ends the guest and the driver process, and looks whether anything of them is left.
    ///
    /// # Errors
    /// Something is, or something does not end.
    pub fn finish(mut self) -> Result<(), LabError> {
        self.bring_down()?;
        let [first, second] = HOSTS;
        let cleanup = self.guest.cleanup(first, Some(second))?;
        self.driver.succeed(&cleanup)?;
        super::truth::no_file_left(self.lab, &self.guest)?;
        self.driver.finalize()?;
        self.lab.run(&["observer-off"]).map(drop)
    }

    fn last_words(&mut self) -> String {
        let Ok(oned) = self.driver.oned() else { return "the driver is dead".to_owned() };
        // Nobody listened while a breakpoint was waited for.
        oned.listen(Duration::from_millis(50));
        let words: Vec<&str> = oned.log().iter().rev().take(12).map(|line| line.text.as_str()).collect();
        let replies: Vec<String> =
            oned.heard().iter().map(|reply| format!("{} {}", reply.status, reply.payload)).collect();
        format!("last words, newest first: {}; replies that nobody took: {replies:?}", words.join(" | "))
    }
}
