//! `postlane queue`: the messages that the running instance keeps; or, without one, those in a spool's directory.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use postlane::dispatch::{Action, Answer, Row, Selection};

use super::client::Admin;
use super::{DATA, USAGE, duration, fail};

#[derive(Debug, Args)]
#[command(after_help = "Examples: postlane queue list --domain example.org\n          \
    postlane queue bounce --older-than 2d --pool farm\n          \
    postlane queue list --spool /var/spool/postlane   (without a running instance; changes nothing)\n\
    Conditions narrow each other. A message that is being sent is told, and otherwise left alone.")]
pub(crate) struct Arguments {
    #[command(subcommand)]
    action: Verb,
    #[command(flatten)]
    admin: Admin,
    /// As JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Messages kept, the first of them in full
    List {
        #[command(flatten)]
        selected: Selected,
        /// Messages told at the most
        #[arg(long, default_value_t = 100)]
        limit: usize,
        /// Read this spool instead of asking the running instance
        #[arg(long, value_name = "DIR")]
        spool: Option<PathBuf>,
    },
    /// One message
    Show {
        /// Its id, as in the 250 and in Received:
        id: String,
        /// Read this spool instead of asking the running instance
        #[arg(long, value_name = "DIR")]
        spool: Option<PathBuf>,
    },
    /// Try at once
    Flush(Selected),
    /// Hold until resumed, also over a restart
    Suspend(Selected),
    /// Hold no longer
    Resume(Selected),
    /// Give up; the senders get bounces
    Bounce(Selected),
    /// Give up without a word
    Delete(Selected),
}

/// Which messages.
#[derive(Debug, Clone, Args)]
struct Selected {
    /// The message with this id
    #[arg(long)]
    id: Option<String>,
    /// Those with a recipient left in this domain
    #[arg(long)]
    domain: Option<String>,
    /// Those of this sender; <> is the empty one
    #[arg(long)]
    sender: Option<String>,
    /// Those that wait for this pool
    #[arg(long)]
    pool: Option<String>,
    /// Those taken longer ago than this
    #[arg(long, value_parser = duration)]
    older_than: Option<Duration>,
    /// All that the other conditions leave, or really all
    #[arg(long)]
    everything: bool,
}

impl Selected {
    fn selection(&self) -> Selection {
        Selection {
            id: self.id.clone(),
            domain: self.domain.clone(),
            sender: self.sender.clone(),
            pool: self.pool.clone(),
            older_than: self.older_than.map(|age| age.as_secs_f64()),
        }
    }
}

pub(crate) fn run(arguments: Arguments) -> ExitCode {
    let (action, selected, verb) = match &arguments.action {
        Verb::List { selected, limit, spool } => {
            return told(&arguments, &selected.selection(), *limit, spool.as_ref(), false);
        }
        Verb::Show { id, spool } => {
            let selection = Selection { id: Some(id.clone()), ..Selection::default() };
            return told(&arguments, &selection, 1, spool.as_ref(), true);
        }
        Verb::Flush(selected) => (Action::Flush, selected, "due now"),
        Verb::Suspend(selected) => (Action::Suspend, selected, "suspended"),
        Verb::Resume(selected) => (Action::Resume, selected, "resumed"),
        Verb::Bounce(selected) => (Action::Bounce, selected, "to be bounced"),
        Verb::Delete(selected) => (Action::Delete, selected, "deleted"),
    };
    let selection = selected.selection();
    if !selection.narrows() && !selected.everything {
        return fail(USAGE, "this would be every message: narrow it, or say --everything");
    }
    match ask(&arguments.admin, action, &selection, selected.everything, 0) {
        Ok(answer) => {
            if arguments.json {
                super::check::print_json(&answer);
            } else {
                println!("{} of {} messages {verb}", answer.done, answer.matched);
                if answer.done < answer.matched {
                    println!("the others are being sent: ask again");
                }
            }
            ExitCode::SUCCESS
        }
        Err(code) => code,
    }
}

fn ask(
    admin: &Admin,
    action: Action,
    selection: &Selection,
    everything: bool,
    limit: usize,
) -> Result<Answer, ExitCode> {
    let body = serde_json::json!({
        "action": action, "selection": selection, "everything": everything, "limit": limit
    });
    let (code, text) = admin.ask("/api/v1/queue", Some(&body.to_string()))?;
    if code != 200 {
        return Err(admin.refused(code, &text));
    }
    serde_json::from_str(&text)
        .map_err(|error| fail(DATA, format!("the instance's answer makes no sense: {error}")))
}

fn told(
    arguments: &Arguments,
    selection: &Selection,
    limit: usize,
    spool: Option<&PathBuf>,
    is_one: bool,
) -> ExitCode {
    let answer = match spool {
        None => match ask(&arguments.admin, Action::List, selection, true, limit) {
            Ok(answer) => answer,
            Err(code) => return code,
        },
        Some(directory) => match postlane::control::read_queue(directory, selection, limit) {
            Ok(answer) => answer,
            Err(failure) => return fail(failure.exit, failure),
        },
    };
    if is_one && answer.matched == 0 {
        return fail(DATA, "there is no such message: it was delivered, bounced or never kept");
    }
    if arguments.json {
        super::check::print_json(&answer);
    } else if is_one {
        answer.rows.iter().for_each(print_whole);
    } else {
        print_list(&answer);
    }
    ExitCode::SUCCESS
}

fn print_list(answer: &Answer) {
    if !answer.rows.is_empty() {
        println!(
            "{:<22} {:<9} {:>8} {:>9} {:>4} {:>8}  sender → recipients",
            "id", "state", "age", "size", "try", "next in"
        );
    }
    for row in &answer.rows {
        let more = match row.recipients.len() {
            0 | 1 => String::new(),
            several => format!(" and {} more", several - 1),
        };
        println!(
            "{:<22} {:<9} {:>8} {:>9} {:>4} {:>8}  <{}> → <{}>{more}",
            row.id,
            row.state,
            span(row.age),
            row.size,
            row.attempts,
            row.due_in.map(span).unwrap_or_default(),
            row.sender,
            row.recipients.first().map(String::as_str).unwrap_or_default()
        );
    }
    let (shown, all) = (answer.rows.len() as u64, answer.matched);
    println!(
        "{all} messages{}",
        if shown < all { format!(", {shown} of them shown") } else { String::new() }
    );
}

fn print_whole(row: &Row) {
    println!("id          {}", row.id);
    println!("state       {}", row.state);
    println!("sender      <{}>", row.sender);
    row.recipients.iter().for_each(|recipient| println!("recipient   <{recipient}>"));
    println!("size        {} octets", row.size);
    println!("age         {}", span(row.age));
    println!("attempts    {}", row.attempts);
    if let Some(due_in) = row.due_in {
        println!("next        in {}", span(due_in));
    }
    if let Some(pool) = &row.pool {
        println!("pool        {pool}");
    }
    if let Some(reply) = &row.reply {
        println!("last reply  {reply}");
    }
}

/// Seconds for people: two units at the most.
fn span(seconds: f64) -> String {
    let seconds = seconds.max(0.0) as u64;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60, seconds % 60) {
        (0, 0, 0, s) => format!("{s}s"),
        (0, 0, m, s) => format!("{m}m{s:02}s"),
        (0, h, m, _) => format!("{h}h{m:02}m"),
        (d, h, ..) => format!("{d}d{h:02}h"),
    }
}
