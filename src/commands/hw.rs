//! `postlane hw`.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use postlane::config::{self, Config, Shards};
use postlane_hw::{
    Backend, CpuSet, Difference, Done, Drivers, Ethtool, Goal, Hands, NoDrivers, Tuning, Wanted,
};
use serde::Serialize;

use super::check::print_json;
use super::{BAD_CONFIGURATION, OS_REFUSED, USAGE, checked_against, discovered, fail};

/// `check` found something.
const OFF: u8 = 1;
/// Where what was before is kept: gone with the machine's run, as the settings are.
const STATE: &str = "run/postlane/hw-before.json";
/// Local ports of links past the kernel, where no configuration says.
const PORTS: RangeInclusive<u16> = 61_000..=65_535;
/// Commands of one kind that are printed, of those that `check` finds not followed.
const OF_A_KIND: usize = 4;

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Hw,
}

#[derive(Debug, Subcommand)]
enum Hw {
    /// Draw the machine: CPUs, NUMA nodes, NICs and their queues
    #[command(after_help = "Example: postlane hw show --json")]
    Show(Common),
    /// Print where shards, queues and interrupts go, and what is to be set for that
    #[command(after_help = "Example: postlane hw plan --config /etc/postlane/postlane.toml")]
    Plan {
        #[command(flatten)]
        goal: GoalArguments,
        #[command(flatten)]
        common: Common,
    },
    /// Set the machine as planned, as far as it is not; remember what was before
    #[command(after_help = "Example: postlane hw apply --config /etc/postlane/postlane.toml --dry-run\n\
        Exit 71 if something cannot be set: it says what and why; what was set before it stays, for `revert`.")]
    Apply {
        #[command(flatten)]
        goal: GoalArguments,
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        doing: Doing,
    },
    /// Bring back what was before `apply`
    #[command(after_help = "Example: postlane hw revert --dry-run")]
    Revert {
        #[command(flatten)]
        common: Common,
        #[command(flatten)]
        doing: Doing,
    },
    /// Compare the machine with the plan: what is off, and what that costs
    #[command(after_help = "Example: postlane hw check --backend xdp --interface eth1\n\
        Exit 0 if all is as planned, 1 if something is off.")]
    Check {
        #[command(flatten)]
        goal: GoalArguments,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, Args)]
struct Common {
    /// As JSON
    #[arg(long)]
    json: bool,
    /// The machine is a tree of files
    #[arg(long, value_name = "DIR", hide = true)]
    root: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Doing {
    /// Only print what would be set
    #[arg(long)]
    dry_run: bool,
    /// Where what was before is kept [default: /run/postlane/hw-before.json]
    #[arg(long, value_name = "FILE")]
    state: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct GoalArguments {
    /// Tune for this configuration's backend, interface, ports and shards
    #[arg(long, value_name = "FILE", conflicts_with_all = ["backend", "interface", "shards", "ports"])]
    config: Option<PathBuf>,
    /// How bytes to upstreams travel
    #[arg(long, value_enum, default_value = "uring")]
    backend: Way,
    /// The NIC (several times for more); without it all that are up
    #[arg(long, value_name = "NIC")]
    interface: Vec<String>,
    /// `auto`, a number, or CPUs like `2-9` or `4,`
    #[arg(long, value_name = "SHARDS", default_value = "auto", value_parser = wanted)]
    shards: Wanted,
    /// Local ports of links past the kernel [default: 61000-65535]
    #[arg(long, value_name = "FIRST-LAST", value_parser = ports)]
    ports: Option<RangeInclusive<u16>>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Way {
    /// By the kernel's TCP
    Uring,
    /// Past it, by AF_XDP
    Xdp,
}

fn wanted(text: &str) -> Result<Wanted, String> {
    if text == "auto" {
        return Ok(Wanted::Auto);
    }
    if let Ok(count) = text.parse() {
        return Ok(Wanted::Count(count));
    }
    // A comma makes a list of a single CPU.
    let cpus: CpuSet =
        text.trim_end_matches(',').parse().map_err(|e| format!("{e}, nor `auto` or a number"))?;
    Ok(Wanted::Cpus(cpus.iter().collect()))
}

fn ports(text: &str) -> Result<RangeInclusive<u16>, String> {
    let range = text.split_once('-').and_then(|(first, last)| Some(first.parse().ok()?..=last.parse().ok()?));
    range
        .filter(|range: &RangeInclusive<u16>| !range.is_empty() && *range.start() > 0)
        .ok_or_else(|| format!("`{text}` is not a range of ports like `61000-65535`"))
}

/// The interfaces that a configuration names; none: it does not.
pub(super) fn interfaces(config: &Config) -> Vec<String> {
    let xdp = config.xdp.as_ref().filter(|_| config.backend == config::Backend::Xdp);
    xdp.map(|xdp| xdp.interface.clone()).into_iter().collect()
}

impl GoalArguments {
    fn goal(&self, hw: &postlane_hw::Machine) -> Result<Goal, ExitCode> {
        let Some(file) = &self.config else {
            return Ok(Goal {
                backend: match self.backend {
                    Way::Uring => Backend::Uring,
                    Way::Xdp => Backend::Xdp,
                },
                nics: self.interface.clone(),
                queues: None,
                wanted: self.shards.clone(),
                ports: self.ports.clone().unwrap_or(PORTS),
            });
        };
        let config = Config::load(file, &checked_against(hw)).map_err(|errors| {
            eprintln!("{errors}");
            fail(BAD_CONFIGURATION, "the configuration is not in order")
        })?;
        Ok(Goal {
            backend: match config.backend {
                config::Backend::Uring => Backend::Uring,
                config::Backend::Xdp => Backend::Xdp,
            },
            nics: interfaces(&config),
            queues: config.xdp.as_ref().and_then(|xdp| xdp.queues.clone()),
            wanted: match &config.shards {
                Shards::Auto => Wanted::Auto,
                Shards::Count(count) => Wanted::Count(usize::from(*count)),
                Shards::Cpus(cpus) => Wanted::Cpus(cpus.clone()),
            },
            ports: config.xdp.as_ref().map_or(PORTS, |xdp| xdp.ports.clone()),
        })
    }
}

/// A machine to look at and to set: this one, or a tree of files.
struct Bench<'a> {
    root: &'a Path,
    drivers: &'a dyn Drivers,
}

impl<'a> Bench<'a> {
    fn new(common: &'a Common) -> Bench<'a> {
        match &common.root {
            Some(root) => Bench { root, drivers: &NoDrivers },
            None => Bench { root: Path::new("/"), drivers: &Ethtool },
        }
    }

    fn hands(&self) -> Hands<'a> {
        Hands::new(self.root, self.drivers)
    }

    fn tuning(&self, goal: &GoalArguments) -> Result<(Goal, Tuning), ExitCode> {
        let hw = discovered(self.root, self.drivers)?;
        let goal = goal.goal(&hw)?;
        match postlane_hw::tune(&hw, &goal) {
            Ok(tuning) => Ok((goal, tuning)),
            Err(error) => Err(fail(USAGE, error)),
        }
    }

    fn state(&self, doing: &Doing) -> PathBuf {
        doing.state.clone().unwrap_or_else(|| self.root.join(STATE))
    }
}

/// A step as it is printed.
#[derive(Serialize)]
struct Line {
    command: String,
    /// What is; `None`: it cannot be read.
    now: Option<String>,
    /// What that costs.
    cost: String,
}

impl Line {
    fn new(difference: &Difference) -> Line {
        Line {
            command: difference.step.setting.to_string(),
            now: difference.now.as_ref().map(postlane_hw::Setting::value),
            cost: difference.step.cost.clone(),
        }
    }

    fn is_now(&self) -> String {
        match &self.now {
            Some(now) => format!("now {now}"),
            None => "cannot be read".to_owned(),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let end = match &arguments.command {
        Hw::Show(common) => show(common),
        Hw::Plan { goal, common } => plan(goal, common),
        Hw::Apply { goal, common, doing } => apply(goal, common, doing),
        Hw::Revert { common, doing } => revert(common, doing),
        Hw::Check { goal, common } => check(goal, common),
    };
    end.unwrap_or_else(|code| code)
}

fn show(common: &Common) -> Result<ExitCode, ExitCode> {
    let bench = Bench::new(common);
    let hw = discovered(bench.root, bench.drivers)?;
    if common.json {
        print_json(&hw)
    } else {
        print!("{}", postlane_hw::show(&hw))
    }
    Ok(ExitCode::SUCCESS)
}

fn lines(bench: &Bench<'_>, tuning: &Tuning) -> Vec<Line> {
    bench.hands().differences(&tuning.steps).iter().map(Line::new).collect()
}

fn plan(goal: &GoalArguments, common: &Common) -> Result<ExitCode, ExitCode> {
    let bench = Bench::new(common);
    let (_, tuning) = bench.tuning(goal)?;
    let lines = lines(&bench, &tuning);
    if common.json {
        print_json(&serde_json::json!({
            "shards": tuning.shards, "settings": tuning.steps.len(), "to_set": lines,
            "faults": tuning.faults, "notes": tuning.notes,
        }));
        return Ok(ExitCode::SUCCESS);
    }
    print!("{}", postlane_hw::show_tuning(&tuning));
    println!("{} of {} settings are as planned", tuning.steps.len() - lines.len(), tuning.steps.len());
    for line in &lines {
        println!("  {}  # {}", line.command, line.is_now());
    }
    print_rest(&tuning);
    Ok(ExitCode::SUCCESS)
}

fn print_rest(tuning: &Tuning) {
    for fault in &tuning.faults {
        println!("fault      {}\n           {}", fault.what, fault.remedy);
    }
    for note in &tuning.notes {
        println!("note       {note}");
    }
}

fn check(goal: &GoalArguments, common: &Common) -> Result<ExitCode, ExitCode> {
    let bench = Bench::new(common);
    let (_, tuning) = bench.tuning(goal)?;
    let lines = lines(&bench, &tuning);
    let is_well = lines.is_empty() && tuning.faults.is_empty();
    if common.json {
        print_json(&serde_json::json!({
            "ok": is_well, "off": lines, "faults": tuning.faults, "notes": tuning.notes,
        }));
    } else {
        let mut rest = lines.as_slice();
        while let Some(first) = rest.first() {
            let of_a_kind = rest.iter().take_while(|line| line.cost == first.cost).count();
            println!("off        {}", first.cost);
            for line in &rest[..of_a_kind.min(OF_A_KIND)] {
                println!("           {}  # {}", line.command, line.is_now());
            }
            if of_a_kind > OF_A_KIND {
                println!("           and {} more of that kind", of_a_kind - OF_A_KIND);
            }
            rest = &rest[of_a_kind..];
        }
        print_rest(&tuning);
        println!("{} of {} settings are as planned", tuning.steps.len() - lines.len(), tuning.steps.len());
        if !lines.is_empty() {
            println!("`postlane hw apply` sets the others");
        }
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::from(OFF) })
}

/// Prints what was set, or would be.
fn print_done(done: &[Done], is_done: bool, json: bool) {
    let line = |done: &Done| {
        serde_json::json!({
            "command": done.setting.to_string(), "was": done.was.as_ref().map(postlane_hw::Setting::value),
        })
    };
    if json {
        return print_json(&serde_json::json!({
            "done": is_done, "settings": done.iter().map(line).collect::<Vec<_>>(),
        }));
    }
    for Done { setting, was } in done {
        match was {
            Some(was) if is_done => println!("{setting}  # was {}", was.value()),
            Some(was) => println!("{setting}  # now {}", was.value()),
            None => println!("# passed over, for it is no more: {setting}"),
        }
    }
    if done.is_empty() {
        println!("# nothing to set");
    }
}

fn finish(end: Result<Vec<Done>, postlane_hw::Failed>, json: bool) -> Result<ExitCode, ExitCode> {
    match end {
        Ok(done) => {
            print_done(&done, true, json);
            Ok(ExitCode::SUCCESS)
        }
        Err(failed) => {
            print_done(&failed.done, true, json);
            Err(fail(OS_REFUSED, failed))
        }
    }
}

fn apply(goal: &GoalArguments, common: &Common, doing: &Doing) -> Result<ExitCode, ExitCode> {
    let bench = Bench::new(common);
    let (goal, tuning) = bench.tuning(goal)?;
    if doing.dry_run {
        let differences = bench.hands().differences(&tuning.steps);
        let done = |difference: &Difference| Done {
            setting: difference.step.setting.clone(),
            was: difference.now.clone(),
        };
        print_done(&differences.iter().map(done).collect::<Vec<_>>(), false, common.json);
        return Ok(ExitCode::SUCCESS);
    }
    // As the machine is after each round: interrupts come with queues.
    let mut steps = || {
        let hw = postlane_hw::discover(bench.root, bench.drivers).map_err(|error| error.to_string())?;
        Ok(postlane_hw::tune(&hw, &goal).map_err(|error| error.to_string())?.steps)
    };
    finish(bench.hands().apply(&bench.state(doing), &mut steps), common.json)
}

fn revert(common: &Common, doing: &Doing) -> Result<ExitCode, ExitCode> {
    let bench = Bench::new(common);
    let state = bench.state(doing);
    if doing.dry_run {
        let done = bench.hands().to_revert(&state);
        let done = done.map_err(|error| fail(OS_REFUSED, format!("{}: {error}", state.display())))?;
        print_done(&done, false, common.json);
        return Ok(ExitCode::SUCCESS);
    }
    finish(bench.hands().revert(&state), common.json)
}
