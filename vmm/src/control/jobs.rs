//! Jobs as clients see them. The one kind there is writes a memory dump.

use api_socket::qmp::error::QmpError;
use api_socket::qmp::types::{BlockJobInfo, JobInfo, JobStatus, JobType};

use super::dump::JOB_ID;
use crate::main_loop::MainLoop;

pub(super) fn query(main: &MainLoop) -> Vec<JobInfo> {
    let wire = |bytes| i64::try_from(bytes).unwrap_or(i64::MAX);
    main.dump
        .progress()
        .map(|(completed, total)| JobInfo {
            id: JOB_ID.to_owned(),
            kind: JobType::Dump,
            status: JobStatus::Running,
            current_progress: wire(completed),
            total_progress: wire(total),
            error: None,
        })
        .into_iter()
        .collect()
}

/// There are no block jobs yet.
pub(super) fn query_block() -> Vec<BlockJobInfo> {
    Vec::new()
}

pub(super) fn cancel(main: &MainLoop, id: &str) -> Result<(), QmpError> {
    if id == JOB_ID && main.dump.cancel() {
        Ok(())
    } else {
        Err(QmpError::job_not_found())
    }
}

/// A dump goes away by itself when it is over.
pub(super) fn dismiss(main: &MainLoop, id: &str) -> Result<(), QmpError> {
    refuse(main, id, "dismiss")
}

/// A verb that a running dump does not know.
pub(super) fn refuse(main: &MainLoop, id: &str, verb: &str) -> Result<(), QmpError> {
    if id == JOB_ID && main.dump.active() {
        Err(QmpError::job_refuses(id, "running", verb))
    } else {
        Err(QmpError::job_not_found())
    }
}
