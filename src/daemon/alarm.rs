//! Alarms: what an operator must know although nothing was stopped.

use std::collections::BTreeMap;

use super::hooks::{HookEvent, Hooks};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum AlarmKind {
    /// The marker has been unknown for too long: a removal would not be noticed.
    MarkerUnknown,
    /// The marker was seen, but that could not be saved: the attempt is not protected.
    Unprotected,
    /// The drain deadline has passed and the attempt still runs.
    Overdue,
    /// The attempt could not be asked to stop.
    RequestFailed,
    /// No moment between two batches has come for too long, so the attempt was not asked yet.
    NoGap,
    /// The driver cannot drain by itself, and nothing can be sent to it.
    CannotDrain,
    /// Steps of a stop cannot be saved or read.
    RecordFailed,
    /// A checkpoint could not be copied for the new job.
    CopyFailed,
    /// It cannot be told which attempt runs, or whether it does.
    AttemptUnknown,
    /// After the stop another attempt runs that nobody asked for.
    Restarted,
}

impl AlarmKind {
    /// The name in logs and in `STEPDOWN_ALARM`.
    pub fn as_str(self) -> &'static str {
        match self {
            AlarmKind::MarkerUnknown => "marker-unknown",
            AlarmKind::Unprotected => "unprotected",
            AlarmKind::Overdue => "overdue",
            AlarmKind::RequestFailed => "request-failed",
            AlarmKind::NoGap => "no-gap",
            AlarmKind::CannotDrain => "cannot-drain",
            AlarmKind::RecordFailed => "record-failed",
            AlarmKind::CopyFailed => "copy-failed",
            AlarmKind::AttemptUnknown => "attempt-unknown",
            AlarmKind::Restarted => "restarted",
        }
    }
}

/// The alarms of one slot that are on now. Each is told once when it comes and once when it goes.
#[derive(Debug, Default)]
pub struct Alarms {
    on: BTreeMap<AlarmKind, String>,
}

impl Alarms {
    /// Turns an alarm on: logs it and runs the `on-alarm` hook, unless it is on already.
    pub fn raise(&mut self, kind: AlarmKind, text: &str, hooks: &Hooks) {
        if self.on.insert(kind, text.to_owned()).is_none() {
            tracing::error!(alarm = kind.as_str(), "{text}");
            hooks.spawn(HookEvent::Alarm {
                kind: kind.as_str(),
                text,
            });
        }
    }

    /// Whether none is on.
    pub(super) fn is_empty(&self) -> bool {
        self.on.is_empty()
    }

    /// Turns an alarm off, if it is on.
    pub fn clear(&mut self, kind: AlarmKind) {
        if self.on.remove(&kind).is_some() {
            tracing::info!(alarm = kind.as_str(), "the alarm is over");
        }
    }
}
