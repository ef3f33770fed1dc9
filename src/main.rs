//! The `stepdown` binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    if let Some(code) = stepdown::process::gate::run_if_asked(std::env::args_os()) {
        return code;
    }
    ExitCode::SUCCESS
}
