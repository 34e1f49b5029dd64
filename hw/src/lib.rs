//! The machine: which CPUs there are and which of them shards may use.
