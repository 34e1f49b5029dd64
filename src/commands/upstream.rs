//! `postlane upstream`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::client::Admin;
use super::{DATA, USAGE, fail};

#[derive(Debug, Args)]
#[command(after_help = "Example: postlane upstream drain farm/mta1\n\
    A name alone will do where only one pool has it. What is in flight finishes; a restart forgets these orders, a\n\
    reload does not.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Action,
    #[command(flatten)]
    admin: Admin,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Every upstream and how it stands
    List,
    /// Nothing new goes there; it is still probed
    Drain {
        /// POOL/NAME, or NAME
        upstream: String,
    },
    /// It gets its share again, slowly at first
    Enable {
        /// POOL/NAME, or NAME
        upstream: String,
    },
    /// Nothing new goes there, and it is not probed
    Disable {
        /// POOL/NAME, or NAME
        upstream: String,
    },
    /// Its share relative to the others'
    Weight {
        /// POOL/NAME, or NAME
        upstream: String,
        /// From 1 to 65535
        #[arg(value_parser = clap::value_parser!(u32).range(1..=65_535))]
        weight: u32,
    },
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let (upstream, body) = match &arguments.action {
        Action::List => return list(&arguments).unwrap_or_else(|code| code),
        Action::Drain { upstream } => (upstream, serde_json::json!({ "order": "drain" })),
        Action::Enable { upstream } => (upstream, serde_json::json!({ "order": "enable" })),
        Action::Disable { upstream } => (upstream, serde_json::json!({ "order": "disable" })),
        Action::Weight { upstream, weight } => (upstream, serde_json::json!({ "weight": weight })),
    };
    command(&arguments, upstream, &body.to_string()).unwrap_or_else(|code| code)
}

fn command(arguments: &Arguments, upstream: &str, body: &str) -> Result<ExitCode, ExitCode> {
    let place = match upstream.split_once('/') {
        Some(_) => upstream.to_owned(),
        None => find(&arguments.admin, upstream)?,
    };
    let (code, answer) = arguments.admin.ask(&format!("/api/v1/upstreams/{place}"), Some(body))?;
    let value: Value = serde_json::from_str(&answer).map_err(|_| arguments.admin.refused(code, &answer))?;
    if arguments.json {
        print!("{answer}");
    }
    match (value["error"].as_str(), value["state"].as_str()) {
        (Some(error), _) => Err(fail(USAGE, error)),
        (None, Some(state)) => {
            if !arguments.json {
                println!("{place} is {state}");
            }
            Ok(ExitCode::SUCCESS)
        }
        _ => Err(arguments.admin.refused(code, &answer)),
    }
}

fn pools(admin: &Admin) -> Result<Value, ExitCode> {
    let body = admin.get("/api/v1/status")?;
    let mut status: Value = serde_json::from_str(&body)
        .map_err(|error| fail(DATA, format!("the instance's answer makes no sense: {error}")))?;
    Ok(status["pools"].take())
}

/// Every upstream with its pool's name.
fn upstreams(pools: &Value) -> impl Iterator<Item = (&str, &Value)> {
    fn items(value: &Value) -> std::slice::Iter<'_, Value> {
        value.as_array().map(Vec::as_slice).unwrap_or_default().iter()
    }
    items(pools).flat_map(|pool| {
        let name = pool["name"].as_str().unwrap_or_default();
        items(&pool["upstreams"]).map(move |upstream| (name, upstream))
    })
}

/// POOL/NAME of a name that only one pool has.
fn find(admin: &Admin, name: &str) -> Result<String, ExitCode> {
    let pools = pools(admin)?;
    let places: Vec<String> = upstreams(&pools)
        .filter(|(_, upstream)| upstream["name"] == name && upstream["state"] != "leaving")
        .map(|(pool, _)| format!("{pool}/{name}"))
        .collect();
    match places.as_slice() {
        [place] => Ok(place.clone()),
        [] => Err(fail(USAGE, format!("there is no upstream `{name}`: `postlane upstream list` names them"))),
        several => {
            Err(fail(USAGE, format!("several pools have `{name}`: write one of {}", several.join(", "))))
        }
    }
}

fn list(arguments: &Arguments) -> Result<ExitCode, ExitCode> {
    let pools = pools(&arguments.admin)?;
    if arguments.json {
        super::check::print_json(&pools);
        return Ok(ExitCode::SUCCESS);
    }
    println!("{:<32} {:<24} {:>6}  {:<9} why", "upstream", "address", "weight", "state");
    for (pool, upstream) in upstreams(&pools) {
        let text = |key: &str| upstream[key].as_str().unwrap_or_default().to_owned();
        println!(
            "{:<32} {:<24} {:>6}  {:<9} {}",
            format!("{pool}/{}", text("name")),
            text("address"),
            upstream["weight"],
            text("state"),
            text("why")
        );
    }
    Ok(ExitCode::SUCCESS)
}
