//! How fast stepdown is and how much it takes, against what it has to reach.
//!
//! `make bench` runs all of it and writes the tables of docs/benchmarks.md; `cargo bench --bench speed -- idle-local`
//! runs what is named and writes nothing. Quiet machines only: what is measured is wall time and CPU
//! time of real processes. Nothing here is a test.

#![expect(unreachable_pub, reason = "a program, and everything in it is its own")]

// Public, as in the tests: each part uses some of the fixtures.
#[path = "../../tests/common/mod.rs"]
pub mod common;

mod copies;
mod idle;
mod latency;
mod lookup;
mod page;
mod places;
mod proc;
mod round;
mod sample;

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use page::Table;

/// One thing that is measured.
struct Subject {
    name: &'static str,
    measure: fn() -> Result<Table>,
}

const SUBJECTS: [Subject; 15] = [
    Subject {
        name: "lookup",
        measure: lookup::measure,
    },
    Subject {
        name: "round-local",
        measure: round::measure_local,
    },
    Subject {
        name: "round-hdfs",
        measure: round::measure_hdfs,
    },
    Subject {
        name: "latency-local",
        measure: latency::measure_local,
    },
    Subject {
        name: "latency-hdfs",
        measure: latency::measure_hdfs,
    },
    Subject {
        name: "idle-local",
        measure: idle::measure_local,
    },
    Subject {
        name: "idle-hdfs",
        measure: idle::measure_hdfs,
    },
    Subject {
        name: "copy-hdfs",
        measure: copies::measure_in_hdfs,
    },
    Subject {
        name: "copy-hdfs-quick-close",
        measure: copies::measure_in_hdfs_quick_close,
    },
    Subject {
        name: "copy-across",
        measure: copies::measure_across,
    },
    Subject {
        name: "copy-local",
        measure: copies::measure_local,
    },
    Subject {
        name: "copy-minimal",
        measure: copies::measure_minimal,
    },
    Subject {
        name: "copy-finish",
        measure: copies::measure_finish,
    },
    Subject {
        name: "copy-finish-hdfs",
        measure: copies::measure_finish_in_hdfs,
    },
    Subject {
        name: "copy-memory",
        measure: copies::measure_memory,
    },
];

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).peekable();
    if args.next_if(|arg| arg == latency::JOB_ROLE).is_some() {
        let noted = args.next().unwrap_or_default();
        return latency::be_a_job(Path::new(&noted));
    }
    // Cargo adds --bench.
    let wanted: Vec<String> = args.filter(|arg| !arg.starts_with('-')).collect();
    let mut failed = false;
    for subject in SUBJECTS {
        if !wanted.is_empty() && !wanted.iter().any(|name| name == subject.name) {
            continue;
        }
        page::tell(&format!("measuring {} ...", subject.name));
        let shown = (subject.measure)().and_then(|table| page::show(subject.name, &table));
        if let Err(error) = shown {
            page::tell(&format!("{}: {error:?}", subject.name));
            failed = true;
        }
    }
    ExitCode::from(u8::from(failed))
}
