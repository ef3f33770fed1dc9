//! The `stepdown` binary.

use std::process::ExitCode;

use stepdown::{cli, process};

fn main() -> ExitCode {
    if let Some(code) = process::gate::run_if_asked(std::env::args_os()) {
        return code;
    }
    let invocation = match cli::parse(std::env::args_os()) {
        Ok(invocation) => invocation,
        Err(code) => return code,
    };
    // A child may have the terminal while stepdown logs to it.
    // It never fails; if it did, only `stty tostop` would be the worse for it.
    let _best_effort = process::terminal::allow_background_output();
    // One thread: commands wait nearly all the time, and what thousands of engines take they take from
    // one heap. Local disks and HDFS have threads of their own.
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return cli::no_runtime(&invocation, error),
    };
    let code = runtime.block_on(cli::run(invocation));
    // A call into a hung mount keeps its thread for as long as the mount hangs; the answer is given.
    runtime.shutdown_background();
    code
}
