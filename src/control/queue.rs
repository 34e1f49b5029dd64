//! Operators' orders about kept messages: to every shard, and their answers added up.

use std::time::{Duration, Instant};

use glommio::timer::sleep;

use super::reload::Reloader;
use crate::dispatch::{Action, Answer, Order, Selection};

/// How often it is looked whether the shards have answered.
const GLANCE: Duration = Duration::from_millis(5);
/// A shard goes through millions of messages in a second or two.
const PATIENCE: Duration = Duration::from_secs(30);
/// Rows told at the most.
const ROWS_MAX: usize = 100_000;

/// What the body of a request asks for.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Wish {
    action: Action,
    #[serde(default)]
    selection: Selection,
    #[serde(default)]
    everything: bool,
    limit: Option<usize>,
}

/// The order that the body of a request stands for.
///
/// # Errors
/// Why it is none.
pub(super) fn parse(body: &[u8]) -> Result<Order, String> {
    let wish: Wish = serde_json::from_slice(body).map_err(|error| {
        format!(
            "{error}: send {{\"action\": \"list\", \"flush\", \"suspend\", \"resume\", \"bounce\" or \"delete\", \
             \"selection\": {{...}} or \"everything\": true, \"limit\": 100}}"
        )
    })?;
    if wish.action != Action::List && !wish.selection.narrows() && !wish.everything {
        return Err("a selection that leaves nothing out needs \"everything\": true".to_owned());
    }
    Ok(Order {
        action: wish.action,
        selection: wish.selection,
        limit: wish.limit.unwrap_or(100).min(ROWS_MAX),
    })
}

/// Gives the order to every shard, one order at a time.
///
/// # Errors
/// A shard that does not answer.
pub(super) async fn carry_out(order: Order, reloader: &Reloader) -> Result<Answer, String> {
    while reloader.ordering.replace(true) {
        sleep(GLANCE).await;
    }
    let result = ask_all(&order, reloader).await;
    reloader.ordering.set(false);
    result
}

async fn ask_all(order: &Order, reloader: &Reloader) -> Result<Answer, String> {
    let number = reloader.order.get() + 1;
    reloader.order.set(number);
    reloader.desks.iter().for_each(|desks| desks.orders.offer(number, order.clone()));
    let deadline = Instant::now() + PATIENCE;
    let mut sum = Answer::default();
    for (shard, desks) in reloader.desks.iter().enumerate() {
        loop {
            if let Some(answer) = desks.orders.answer(number) {
                sum.add(answer, order.limit);
                break;
            }
            if Instant::now() > deadline {
                return Err(format!("shard {shard} does not answer"));
            }
            sleep(GLANCE).await;
        }
    }
    Ok(sum)
}
