//! Rollouts: a new version of a job takes over from the old one.
//!
//! [`mod@decide`] is the pure part: from the [`record`] and from what is seen ([`observation`]) it says
//! what to do next. [`journal`] keeps the record so that the late write of one who lost the lease is
//! refused, [`request`] reads what operators ask for, [`go`] is the word that lets a held job start, and
//! [`engine`] does what was decided, through [`engine::Hands`].

pub mod decide;
pub mod engine;
pub mod go;
pub mod journal;
pub mod observation;
pub mod record;
pub mod request;
pub mod state;
