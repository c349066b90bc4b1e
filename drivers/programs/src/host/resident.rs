//! The resident: one process per host and driver, on one kept ssh session, that runs steps for many requests at once.
//!
//! When its input ends, or is silent for too long, the driver has gone: what may be cancelled is cancelled, the rest is
//! let to finish, what came of it is written down, and the process ends. The next driver asks the hosts, not this file,
//! where a guest is. Nothing is begun any more then: a network that comes back may bring what was given up long ago.

use std::fs::File;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::RequestId;
use causeway_core::plan::OnFailure;
use causeway_core::reach::group::once_ended;
use causeway_core::reach::wire::{
    Done, Exchange, FromResident, Hello, Owner, SCHEMA, StepEnd, ToResident, WireStep,
};
use causeway_core::reach::{frame, standard};
use tokio::io::BufReader;
use tokio::sync::{mpsc, watch};

use super::Options;
use super::work::{Place, Surroundings};

/// The way back to the driver: whatever a step says, in order.
pub(super) type Out = mpsc::UnboundedSender<FromResident>;

/// How long steps that must finish are waited for after the driver has gone.
const FAREWELL: Duration = Duration::from_secs(6 * 3600);

/// One exchange that runs. Two of one request may, when the driver gave one up and began another.
#[derive(Clone)]
struct Running {
    request: RequestId,
    /// Turns true when its steps are to stop.
    cancelled: watch::Sender<bool>,
    /// Whether the step that runs now may be stopped by the driver's end.
    cancellable: Arc<AtomicBool>,
}

#[derive(Default)]
struct Table(Mutex<Vec<Running>>);

impl Table {
    fn with<T>(&self, what: impl FnOnce(&mut Vec<Running>) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The resident's life: greets, runs, and returns when its input has ended and nothing runs any more.
///
/// # Errors
/// The standard streams fail, or this process can't be set up.
pub async fn serve(options: Options) -> anyhow::Result<()> {
    let place = Rc::new(Place::new(&options)?);
    let lease = options.lease;
    let (out, mut queue) = mpsc::unbounded_channel::<FromResident>();
    let mut stdout = standard::output()?;
    let hello = FromResident::Hello(Hello {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        schema: SCHEMA,
        tls: super::work::has_certificates(),
        host_name: super::work::host_name(),
    });
    frame::write(&mut stdout, &hello).await?;
    let writer = tokio::task::spawn_local(async move {
        if frame::write_all(&mut stdout, &mut queue).await.is_err() {
            // The driver has gone; the steps go on, and their words with them.
            while queue.recv().await.is_some() {}
        }
    });

    let running = Rc::new(Table::default());
    let mut stdin = BufReader::new(standard::input()?);
    let lapsed = loop {
        let heard = tokio::time::timeout(lease, frame::read::<ToResident>(&mut stdin)).await;
        let Ok(heard) = heard else {
            tracing::warn!("no word of the driver for {} s: it is taken for gone", lease.as_secs());
            break true;
        };
        match heard {
            Ok(ToResident::Alive) => {}
            Ok(ToResident::Run(exchange)) => start(*exchange, &place, &running, &out),
            Ok(ToResident::Cancel { request }) => {
                running.with(|table| {
                    for it in table.iter().filter(|it| it.request == request) {
                        it.cancelled.send_replace(true);
                    }
                });
            }
            Ok(ToResident::Locate { ask, id }) => {
                let (place, out) = (Rc::clone(&place), out.clone());
                tokio::task::spawn_local(async move {
                    let sighting = place.locate(id).await;
                    let _ = out.send(FromResident::Located { ask, sighting });
                });
            }
            Err(frame::FrameError::Closed) => break false,
            Err(e) => {
                tracing::error!(error = %e, "the driver's words make no sense: taking them as its end");
                break false;
            }
        }
    };
    if lapsed {
        // A driver that lives finds its session ended, and opens another.
        drop(stdin);
        writer.abort();
        hang_up()?;
    }
    // Whoever wanted a guest at rest has gone.
    place.rests.end();
    farewell(&running).await;
    drop(out);
    let _ = tokio::time::timeout(Duration::from_secs(1), writer).await;
    Ok(())
}

/// Closes the standard streams for whoever is at their other ends.
fn hang_up() -> anyhow::Result<()> {
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    nix::unistd::dup2_stdin(&nowhere)?;
    nix::unistd::dup2_stdout(&nowhere)?;
    Ok(())
}

/// Waits for what must finish and stops what need not.
async fn farewell(running: &Table) {
    let end = Instant::now() + FAREWELL;
    loop {
        let left: Vec<Running> = running.with(|table| table.clone());
        if left.is_empty() || Instant::now() > end {
            return;
        }
        for it in left {
            if it.cancellable.load(Ordering::Relaxed) {
                it.cancelled.send_replace(true);
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn start(exchange: Exchange, place: &Rc<Place>, running: &Rc<Table>, out: &Out) {
    let (cancelled, watch) = watch::channel(false);
    let cancellable = Arc::new(AtomicBool::new(true));
    let request = exchange.request.clone();
    let it = Running { request: request.clone(), cancelled, cancellable: Arc::clone(&cancellable) };
    running.with(|table| table.push(it));
    let (place, running, out) = (Rc::clone(place), Rc::clone(running), out.clone());
    tokio::task::spawn_local(async move {
        run(&exchange, &place, watch, &cancellable, &out).await;
        running.with(|table| table.retain(|it| !Arc::ptr_eq(&it.cancellable, &cancellable)));
        let _ = out.send(FromResident::End { request });
    });
}

async fn run(
    exchange: &Exchange,
    place: &Rc<Place>,
    mut cancelled: watch::Receiver<bool>,
    cancellable: &AtomicBool,
    out: &Out,
) {
    let turn = tokio::select! {
        turn = place.turns.of(exchange.vm) => turn,
        Ok(_) = cancelled.wait_for(|c| *c) => return,
    };
    let turn = match turn {
        Ok(turn) => Arc::new(turn),
        Err(failure) => return refuse(exchange, failure, out),
    };
    let mut outputs = exchange.outputs.clone();
    for step in &exchange.steps {
        if *cancelled.borrow() {
            return;
        }
        cancellable.store(step.cancellable, Ordering::Relaxed);
        let request = exchange.request.clone();
        let _ = out.send(FromResident::Started { request: request.clone(), step: step.name.clone() });
        place.breakpoints.pass(&step.name, "before").await;
        place.breakpoints.begin(&step.name);
        let start = Instant::now();
        let owner = place.owner(&step.work);
        let surroundings = Surroundings { outputs: &outputs, turn: Some(Arc::clone(&turn)), out };
        let result = one(place, exchange, step, &surroundings, cancelled.clone()).await;
        let micros = u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX);
        tracing::info!(vm = exchange.vm.0, %request, step = step.name, micros, ok = result.is_ok());
        if let Ok(done) = &result {
            outputs.insert(step.name.clone(), done.first_word().to_owned());
        }
        place.breakpoints.pass(&step.name, "after").await;
        let stop = result.is_err() && step.on_failure == OnFailure::Stop;
        let end = StepEnd { step: step.name.clone(), result, owner, micros };
        let _ = out.send(FromResident::Ended { request, end });
        if stop {
            return;
        }
        // Between two steps a driver that has gone stops even an exchange of steps that must finish.
        cancellable.store(true, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

/// Nothing can be done here: the first step says why. An exchange without steps asks whether the VM is at rest, and is
/// told that this can't be known.
fn refuse(exchange: &Exchange, failure: Failure, out: &Out) {
    let step = exchange.steps.first().map_or_else(String::new, |step| step.name.clone());
    let request = exchange.request.clone();
    let end = StepEnd { step, result: Err(failure), owner: Owner::Ours, micros: 0 };
    let _ = out.send(FromResident::Ended { request, end });
}

async fn one(
    place: &Rc<Place>,
    exchange: &Exchange,
    step: &WireStep,
    surroundings: &Surroundings<'_>,
    mut cancelled: watch::Receiver<bool>,
) -> Result<Done, Failure> {
    let heard = cancelled.clone();
    let work = place.run(exchange, step, surroundings, &heard);
    let stopped = async {
        // Work on libvirt hears of a cancel by itself and brings the guest to rest first; anything else is dropped,
        // which kills its child.
        let _ = cancelled.wait_for(|c| *c).await;
        if place.stops_itself(&step.work) {
            std::future::pending::<()>().await;
        }
    };
    let late = || Failure::new(Kind::Timeout, format!("not done within {} s", step.deadline().as_secs_f64()));
    tokio::select! {
        result = tokio::time::timeout(step.deadline(), work) => match result {
            Ok(result) => result,
            Err(_) => Err(once_ended(late()).await),
        },
        () = stopped => Err(once_ended(Failure::new(Kind::Cancelled, "cancelled")).await),
    }
}
