//! The functions a vector can ask for, by name.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::cost;
use crate::decide::{self, Features, Policy, Request, Slot};
use crate::dirty::{self, Pattern};
use crate::disk::{self, Disk};
use crate::error::{self, Error};
use crate::guest::Memory;
use crate::migration::{self, Migration};
use crate::monitor::{self, Action, Monitor, Watch};
use crate::path::{self, Overlay};
use crate::postcopy;
use crate::precopy::{self, Rates};
use crate::preflight::{self, Destination, Needs};
use crate::tuning::Tuning;
use crate::uncertainty::{self, Noise};

/// Ask the model: function `name` of `input`.
pub(super) fn call(name: &str, input: Value) -> Result<Value, Error> {
    match name {
        "mtu_plan" => {
            let MtuInput { underlay_mtu, overlay } = read(input)?;
            write(&path::mtu_plan(underlay_mtu, overlay))
        }
        "path_throughput" => write(&path::throughput(&read(input)?)?),
        "dirty_curve" => dirty_curve(&read(input)?),
        "fit_dirty" => {
            let FitInput { samples, ram } = read(input)?;
            write(&dirty::fit_uniform(&samples, ram)?)
        }
        "fit_pattern" => {
            let FitInput { samples, ram } = read(input)?;
            write(&dirty::fit(&samples, ram)?)
        }
        "simulate_precopy" => {
            let LoopInput { vm, rates, hv } = read(input)?;
            write(&precopy::simulate(&vm, &rates, &hv.unwrap_or_default())?)
        }
        "simulate_postcopy" => {
            let PostcopyInput { memory: LoopInput { vm, rates, hv }, switch_after_s } = read(input)?;
            write(&postcopy::simulate(&vm, &rates, &hv.unwrap_or_default(), switch_after_s)?)
        }
        "downtime_limit_needed" => {
            let LoopInput { vm, rates, hv } = read(input)?;
            let needed =
                precopy::downtime_limit_needed(&vm, &rates, &hv.unwrap_or_default(), LEAST_S, MOST_S)?;
            write(&Limit { s: needed })
        }
        "cpu_overhead" => write(&cost::cpu(&read(input)?)?),
        "failure_probability" => write(&cost::risk(&read(input)?)?),
        "simulate_disk" => {
            let MirrorInput { disk, rate } = read(input)?;
            write(&disk::mirror(&disk, rate)?)
        }
        "cold_move" => {
            let ColdInput { vm, disk, rate, boot_s } = read(input)?;
            write(&disk::cold_move(&vm, &disk, rate, boot_s)?)
        }
        "predict" => write(&migration::predict(&read(input)?)?),
        "probability" => probability(read(input)?),
        "reserve" => {
            let PlacementInput { vm, dest } = read(input)?;
            write(&preflight::check(&vm, &dest)?)
        }
        "decide" => write(&decide::decide(&request(input)?)?),
        "monitor" => watch(read(input)?),
        _ => Err(Error::UnknownFunction { name: name.to_owned() }),
    }
}

fn read<T: DeserializeOwned>(input: Value) -> Result<T, Error> {
    serde_json::from_value(input).map_err(|source| Error::Malformed { document: "the argument", source })
}

fn write<T: Serialize>(answer: &T) -> Result<Value, Error> {
    serde_json::to_value(answer).map_err(|source| Error::Malformed { document: "the answer", source })
}

/// The range in which a downtime limit is looked for, seconds.
const LEAST_S: f64 = 0.01;
const MOST_S: f64 = 60.0;

#[derive(Deserialize)]
struct MtuInput {
    underlay_mtu: u32,
    overlay: Overlay,
}

#[derive(Deserialize)]
struct CurveInput {
    w: f64,
    r: f64,
    t: f64,
    #[serde(default)]
    pattern: Pattern,
}

fn dirty_curve(input: &CurveInput) -> Result<Value, Error> {
    error::bytes("w", input.w)?;
    error::rate_or_zero("r", input.r)?;
    error::seconds("t", input.t)?;
    Ok(json!({ "bytes": dirty::curve(input.w, input.r, input.t, input.pattern) }))
}

#[derive(Deserialize)]
struct FitInput {
    samples: Vec<dirty::Sample>,
    ram: f64,
}

#[derive(Deserialize)]
struct LoopInput {
    vm: Memory,
    rates: Rates,
    hv: Option<Tuning>,
}

#[derive(Deserialize)]
struct PostcopyInput {
    #[serde(flatten)]
    memory: LoopInput,
    switch_after_s: f64,
}

#[derive(Serialize)]
struct Limit {
    #[serde(serialize_with = "crate::number::serialize")]
    s: f64,
}

#[derive(Deserialize)]
struct MirrorInput {
    disk: Disk,
    #[serde(rename = "B")]
    rate: f64,
}

#[derive(Deserialize)]
struct ColdInput {
    vm: Memory,
    disk: Disk,
    #[serde(rename = "B")]
    rate: f64,
    #[serde(default = "a_boot")]
    boot_s: f64,
}

fn a_boot() -> f64 {
    20.0
}

#[derive(Deserialize)]
struct OddsInput {
    #[serde(rename = "inp")]
    migration: PolicedMigration,
    noise: Noise,
    #[serde(default = "points")]
    n: u32,
}

fn points() -> u32 {
    uncertainty::POINTS
}

#[derive(Deserialize)]
struct PolicedMigration {
    #[serde(flatten)]
    migration: Migration,
    policy: Policy,
}

fn probability(input: OddsInput) -> Result<Value, Error> {
    let OddsInput { migration: PolicedMigration { migration, policy }, noise, n } = input;
    write(&uncertainty::odds(&migration, policy.deadline_s, policy.max_downtime_s, &noise, n)?)
}

#[derive(Deserialize)]
struct PlacementInput {
    vm: Needs,
    dest: Destination,
}

#[derive(Deserialize)]
struct RequestInput {
    #[serde(flatten)]
    migration: PolicedMigration,
    #[serde(default)]
    features: Features,
    #[serde(default)]
    forecast: Vec<Slot>,
}

/// A request; its `vm` is also what the destination is held against, if there is one.
fn request(input: Value) -> Result<Request, Error> {
    let placement = match input.get("dest") {
        Some(_) => read(input.clone()).map(|PlacementInput { vm, dest }| Some((vm, dest)))?,
        None => None,
    };
    let RequestInput { migration: PolicedMigration { migration, policy }, features, forecast } = read(input)?;
    Ok(Request { migration, policy, features, forecast, placement })
}

#[derive(Deserialize)]
struct WatchInput {
    cfg: Watch,
    samples: Vec<SampleRow>,
}

/// Time, transferred, remaining, dirty rate, syncs and, if auto-converge is on, the throttle.
#[derive(Deserialize)]
#[serde(untagged)]
enum SampleRow {
    Plain(f64, f64, f64, f64, u64),
    Throttled(f64, f64, f64, f64, u64, f64),
}

impl From<SampleRow> for monitor::Sample {
    fn from(row: SampleRow) -> Self {
        let (SampleRow::Plain(t_s, transferred, remaining, dirty_rate, syncs)
        | SampleRow::Throttled(t_s, transferred, remaining, dirty_rate, syncs, _)) = row;
        let throttle_pct = if let SampleRow::Throttled(.., pct) = row { pct } else { 0.0 };
        Self { t_s, transferred, remaining, dirty_rate, syncs, throttle_pct }
    }
}

/// Feed the samples until one leads to an action.
fn watch(input: WatchInput) -> Result<Value, Error> {
    let mut monitor = Monitor::new(input.cfg)?;
    let mut last = None;
    for (index, row) in input.samples.into_iter().enumerate() {
        let advice = monitor.observe(&row.into())?;
        last = Some((index, advice));
        if advice.action != Action::Continue {
            break;
        }
    }
    let (index, advice) = last.ok_or(Error::Empty { list: "the list of samples" })?;
    let mut answer = write(&advice)?;
    if let Some(fields) = answer.as_object_mut() {
        fields.insert("index".to_owned(), json!(index));
    }
    Ok(answer)
}
