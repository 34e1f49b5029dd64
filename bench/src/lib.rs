//! Load generator, sink, measurement and report. Knows nothing of the dispatcher; speaks SMTP to anything.
