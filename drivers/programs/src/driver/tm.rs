//! The transfer manager's driver process: an EXECUTABLE swap in oned's `TM_MAD`.
//!
//! ```text
//! TRANSFER  7 /var/lib/one/vms/7/transfer.0.prolog
//!    │
//!    v            per line: in the list of `-d`? whose is the slot?
//! the script ──────────────────────────────────────────────┬─> ours:    steps on the host
//!    │                                                     ├─> foreign: the script on the front-end
//!    └─ all lines are looked at before any is run          └─> nobody:  FAILURE, nothing was run
//! ```

mod datastore;
mod look;
pub mod slot;
mod waits;

use causeway_core::answer::{Failure, Kind};
use causeway_core::document::VmDocument;
use causeway_core::names::VmId;
use causeway_core::plan::{Answer, Plan, Recall, Work};
use causeway_core::protocol::{Action, Request, TmOptions};
use causeway_tm::script;

use super::config::Config;
use super::serve::{self, Driver, Family};
use super::turns::Room;

/// The transfer manager.
pub enum Tm {}

impl Family for Tm {
    type Options = TmOptions;

    const NAME: &'static str = "tm";

    // oned sends a script again when its admin retries (`onevm recover`); two answers would be one too many, and the
    // second run would come while the VM already boots.
    const SUPERSEDES: bool = true;

    async fn plan(
        driver: &Driver<Tm>,
        request: &Request,
        _first_word: &mut Option<u32>,
    ) -> Result<Plan, Failure> {
        if request.action != Action::Transfer {
            let text = format!("{} is nothing that a transfer manager does", request.action);
            return Err(Failure::new(Kind::NotBuilt, text));
        }
        let path = request.script().map_err(|e| Failure::new(Kind::Input, e))?;
        let unreadable = |f: Failure| f.context(format!("transfer script {path}"));
        let bytes = driver.front.read(&path).await.map_err(unreadable)?;
        let commands = script::parse(&bytes).map_err(|e| unreadable(e.into()))?;
        let (steps, inputs) = look::expand(driver, &commands).await?;
        Ok(Plan {
            action: request.action.as_str().to_owned(),
            vm: request.vm,
            deploy_id: None,
            steps,
            inputs,
            answer: Answer::Empty,
            first_word: None,
            recall: Some(Recall {
                request: path.as_str().to_owned(),
                datastore: None,
                sequence: waits::sequence(path.as_str()),
            }),
        })
    }

    /// Somebody else's scripts are processes of the front-end, so `-t` bounds them there, all hosts together, as it
    /// does with the stock driver; ours are bounded where they work.
    fn room(plan: &Plan) -> Room {
        if plan.steps.iter().any(|step| matches!(step.work, Work::Slot { .. })) {
            return Room::FrontEnd;
        }
        let host = plan.steps.iter().find_map(|step| step.place.host());
        host.map_or(Room::Open, |host| Room::Host(host.clone()))
    }

    fn waits(_action: &str, vm: &VmDocument, recall: &Recall) -> bool {
        waits::waits(vm, recall)
    }

    async fn again(
        _driver: &Driver<Tm>,
        _action: &str,
        recall: &Recall,
        (vm, _): (VmId, &str),
    ) -> Result<Request, Failure> {
        Ok(Request::new(Action::Transfer, vm, recall.request.as_str()))
    }
}

/// Serves oned until it says FINALIZE or closes the pipe.
///
/// # Errors
/// As [`serve::serve`].
pub async fn serve(config: Config<TmOptions>) -> anyhow::Result<()> {
    serve::serve::<Tm>(config).await
}
