//! The pool room.
