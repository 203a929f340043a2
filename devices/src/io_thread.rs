//! io_thread
