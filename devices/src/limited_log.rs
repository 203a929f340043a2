//! limited_log
