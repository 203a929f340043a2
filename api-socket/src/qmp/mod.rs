//! The QMP-like control protocol.
