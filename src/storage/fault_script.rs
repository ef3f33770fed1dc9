//! The script of [`Faulty`](super::faulty::Faulty): which call fails, and how.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::{ErrorKind, StoragePath};

/// A call of [`Storage`](super::Storage), of a [`Writer`](super::Writer), or of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "each is named as the call that it stands for")]
pub enum Operation {
    Stat,
    IdentifyDir,
    List,
    ReadSmall,
    ReadSpan,
    OpenRead,
    /// One piece of a stream.
    ReadPiece,
    Create,
    Write,
    Finish,
    Abort,
    Touch,
    CreateDirAll,
    CreateDir,
    Rename,
    DeleteFile,
    DeleteTree,
    SetAttributes,
    MakeDurable,
}

impl Operation {
    /// The operation as errors name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Stat => "stat",
            Operation::IdentifyDir => "identify",
            Operation::List => "list",
            Operation::ReadSmall
            | Operation::ReadSpan
            | Operation::OpenRead
            | Operation::ReadPiece => "read",
            Operation::Create => "create",
            Operation::Write => "write",
            Operation::Finish => "finish",
            Operation::Abort => "abort",
            Operation::Touch => "touch",
            Operation::CreateDirAll | Operation::CreateDir => "create directory",
            Operation::Rename => "rename",
            Operation::DeleteFile => "delete",
            Operation::DeleteTree => "delete tree",
            Operation::SetAttributes => "set attributes of",
            Operation::MakeDurable => "make durable",
        }
    }

    /// Whether the call changes the storage.
    pub fn is_change(self) -> bool {
        match self {
            Operation::Stat
            | Operation::IdentifyDir
            | Operation::List
            | Operation::ReadSmall
            | Operation::ReadSpan
            | Operation::OpenRead
            | Operation::ReadPiece => false,
            Operation::Create
            | Operation::Write
            | Operation::Finish
            | Operation::Abort
            | Operation::Touch
            | Operation::CreateDirAll
            | Operation::CreateDir
            | Operation::Rename
            | Operation::DeleteFile
            | Operation::DeleteTree
            | Operation::SetAttributes
            | Operation::MakeDurable => true,
        }
    }
}

/// What happens to a call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// Fails with this kind; nothing is done.
    Refuse(ErrorKind),
    /// Is executed and its answer lost: `OutcomeUnknown` for a change, `Unreachable` for a read.
    LoseAnswer,
    /// Never answers and is never executed.
    Hang,
    /// Never answers, and is executed when the signal is given, whether the caller still waits or not.
    /// Of a stream's piece: the same as `Hang`.
    ExecuteLate(Signal),
    /// Is executed, and answered, after this time on tokio's clock.
    Delay(Duration),
    /// Of `List`: entries with these names are missing, though the answer claims to be complete.
    ListWithout(Vec<String>),
    /// Of `ReadSmall` and `OpenRead`: the content ends after so many bytes, without an error, as that of
    /// a file that is still being written.
    EndEarly(u64),
}

/// Lets calls with [`Fault::ExecuteLate`] go on, all at once and for good.
#[derive(Debug, Clone, Default)]
pub struct Signal(CancellationToken);

impl Signal {
    /// A signal that is not given yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Gives the signal.
    pub fn give(&self) {
        self.0.cancel();
    }

    pub(super) async fn given(&self) {
        self.0.cancelled().await;
    }
}

/// Which calls a fault applies to: all of one operation, unless narrowed.
#[derive(Debug, Clone)]
pub struct When {
    operation: Option<Operation>,
    place: Place,
    skip: u64,
    times: u64,
}

#[derive(Debug, Clone)]
enum Place {
    Anywhere,
    At(StoragePath),
    /// The directory itself and all below it.
    Within(StoragePath),
}

impl When {
    /// Every call of `operation`.
    pub fn on(operation: Operation) -> Self {
        Self {
            operation: Some(operation),
            ..Self::always()
        }
    }

    /// Every call.
    pub fn always() -> Self {
        Self {
            operation: None,
            place: Place::Anywhere,
            skip: 0,
            times: u64::MAX,
        }
    }

    /// Only calls on exactly this path (of a rename: its source).
    #[must_use]
    pub fn at(mut self, path: &StoragePath) -> Self {
        self.place = Place::At(path.clone());
        self
    }

    /// Only calls on this directory and on all below it.
    #[must_use]
    pub fn within(mut self, dir: &StoragePath) -> Self {
        self.place = Place::Within(dir.clone());
        self
    }

    /// Not the first `calls` of those that fit.
    #[must_use]
    pub fn after(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// Only so many calls.
    #[must_use]
    pub fn times(mut self, calls: u64) -> Self {
        self.times = calls;
        self
    }

    /// Only the `n`th call that fits, counted from 1.
    #[must_use]
    pub fn nth(self, n: u64) -> Self {
        self.after(n.saturating_sub(1)).times(1)
    }

    fn fits(&self, operation: Operation, path: &StoragePath) -> bool {
        let operation_fits = self.operation.is_none_or(|only| only == operation);
        operation_fits
            && match &self.place {
                Place::Anywhere => true,
                Place::At(only) => only == path,
                Place::Within(dir) => path == dir || path.is_below(dir),
            }
    }
}

/// Faults by call, and counts of calls. Clones share both.
#[derive(Debug, Clone, Default)]
pub struct FaultScript(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    rules: Vec<(When, Fault)>,
    calls: HashMap<Operation, HashMap<StoragePath, u64>>,
    faults: u64,
    late_calls_ended: u64,
}

impl FaultScript {
    /// A script without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a fault. A call that several faults apply to meets the one that was added first.
    pub fn inject(&self, when: When, fault: Fault) {
        self.state().rules.push((when, fault));
    }

    /// Takes all faults away; calls that hang go on hanging.
    pub fn clear(&self) {
        self.state().rules.clear();
    }

    /// How many calls of `operation` were made, those that failed included.
    pub fn calls(&self, operation: Operation) -> u64 {
        self.state()
            .calls
            .get(&operation)
            .map_or(0, |paths| paths.values().sum())
    }

    /// How many of them were made on `path`.
    pub fn calls_at(&self, operation: Operation, path: &StoragePath) -> u64 {
        self.state()
            .calls
            .get(&operation)
            .and_then(|paths| paths.get(path))
            .copied()
            .unwrap_or(0)
    }

    /// How many calls were made at all.
    pub fn all_calls(&self) -> u64 {
        let state = self.state();
        state.calls.values().flat_map(HashMap::values).sum()
    }

    /// Counts from zero again.
    pub fn reset_counts(&self) {
        let mut state = self.state();
        state.calls.clear();
        state.faults = 0;
        state.late_calls_ended = 0;
    }

    /// How many calls met a fault.
    pub fn faults(&self) -> u64 {
        self.state().faults
    }

    /// How many calls with [`Fault::ExecuteLate`] have been executed since.
    pub fn late_calls(&self) -> u64 {
        self.state().late_calls_ended
    }

    /// Counts a call and picks its fault.
    pub(super) fn enter(&self, operation: Operation, path: &StoragePath) -> Option<Fault> {
        let mut state = self.state();
        let paths = state.calls.entry(operation).or_default();
        *paths.entry(path.clone()).or_default() += 1;
        let mut met = None;
        // Every rule counts the calls that fit it, also those that an earlier rule answered.
        for (when, fault) in &mut state.rules {
            if !when.fits(operation, path) {
                continue;
            }
            if when.skip > 0 {
                when.skip -= 1;
            } else if when.times > 0 && met.is_none() {
                when.times = when.times.saturating_sub(u64::from(when.times != u64::MAX));
                met = Some(fault.clone());
            }
        }
        state.faults += u64::from(met.is_some());
        met
    }

    pub(super) fn late_call_ended(&self) {
        self.state().late_calls_ended += 1;
    }

    /// Counters and rules are whole after each call, so poison is no reason to stop.
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
