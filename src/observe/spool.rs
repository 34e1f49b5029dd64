//! What a shard counts of the messages that it keeps.

use std::sync::Arc;

use super::prometheus::Page;
use super::{Counter, Histogram, Stats};

/// One shard's spool in numbers.
#[derive(Debug, Default)]
pub struct SpoolStats {
    /// Messages kept now.
    pub messages: Counter,
    /// Their octets, with their envelopes.
    pub bytes: Counter,
    /// Octets of the files that they lie in.
    pub file_bytes: Counter,
    /// Octets of memory that the index takes.
    pub index_bytes: Counter,
    /// Kept messages that are under way now.
    pub active: Counter,
    /// Messages that became durable.
    pub kept: Counter,
    /// Messages refused because the disk was full or failed.
    pub refused: Counter,
    /// Attempts at kept messages after which some recipients were left.
    pub deferred: Counter,
    /// Times a message was too large to be read back whole, and was sent in parts while it was read.
    pub in_parts: Counter,
    /// Messages too old, or found so when they were read back.
    pub expired: Counter,
    /// Messages that could not be read back as they were written.
    pub damaged: Counter,
    /// Times the disk made something durable.
    pub syncs: Counter,
    /// Of these, times when new messages were in it.
    pub message_syncs: Counter,
    /// Messages in them.
    pub synced: Counter,
    /// Times it failed to.
    pub sync_failures: Counter,
    /// How long it took.
    pub sync: Histogram,
}

/// The spool's metrics.
pub(super) fn write(page: &mut Page, shards: &[Arc<Stats>]) {
    type Of = fn(&SpoolStats) -> &Counter;
    let numbers: [(&str, &str, &str, Of); 15] = [
        ("postlane_spool_messages", "gauge", "Messages kept now.", |s| &s.messages),
        ("postlane_spool_bytes", "gauge", "Octets of messages kept now.", |s| &s.bytes),
        ("postlane_spool_file_bytes", "gauge", "Octets of the spool's files.", |s| &s.file_bytes),
        ("postlane_spool_index_bytes", "gauge", "Memory that the index takes.", |s| &s.index_bytes),
        ("postlane_spool_active", "gauge", "Kept messages under way now.", |s| &s.active),
        ("postlane_spool_kept_total", "counter", "Messages that became durable.", |s| &s.kept),
        ("postlane_spool_refused_total", "counter", "Messages the disk had no room for, or failed.", |s| {
            &s.refused
        }),
        ("postlane_spool_deferred_total", "counter", "Attempts that left some recipients.", |s| &s.deferred),
        ("postlane_spool_in_parts_total", "counter", "Sent in parts while being read back.", |s| &s.in_parts),
        ("postlane_spool_expired_total", "counter", "Messages that became too old.", |s| &s.expired),
        ("postlane_spool_damaged_total", "counter", "Messages not read back as written.", |s| &s.damaged),
        ("postlane_spool_syncs_total", "counter", "Times the disk made something durable.", |s| &s.syncs),
        ("postlane_spool_message_syncs_total", "counter", "Of these, those with new messages.", |s| {
            &s.message_syncs
        }),
        ("postlane_spool_synced_messages_total", "counter", "New messages in them.", |s| &s.synced),
        ("postlane_spool_sync_failures_total", "counter", "Times the disk failed to.", |s| &s.sync_failures),
    ];
    for (name, kind, help, of) in numbers {
        page.head(name, kind, help);
        page.line(name, "", shards.iter().map(|stats| of(&stats.spool).get()).sum::<u64>());
    }
    page.head(
        "postlane_spool_sync_seconds",
        "histogram",
        "How long the disk took to make something durable.",
    );
    page.histogram("postlane_spool_sync_seconds", "", shards.iter().map(|stats| &stats.spool.sync));
}
