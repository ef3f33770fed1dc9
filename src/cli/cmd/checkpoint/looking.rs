//! `inspect`, `verify`, `diff`: nothing is written.

use jiff::Timestamp;

use super::{DiffArgs, InspectArgs, VerifyArgs, place};
use crate::app::App;
use crate::checkpoint::copy::Place;
use crate::checkpoint::diff::diff;
use crate::checkpoint::inspect::{Report as Inspection, inspect};
use crate::checkpoint::layout::DirectoryKind;
use crate::checkpoint::load::load_contents;
use crate::checkpoint::target::At;
use crate::checkpoint::verify::{Thoroughness, Verdict, VerifyOptions, verify};
use crate::cli::Context;
use crate::cli::exit::{Exit, Status};
use crate::cli::failure::{Failure, Result};

/// What `inspect` shows of a checkpoint.
pub(in crate::cli::cmd) async fn inspection(place: &Place) -> Result<Inspection> {
    let contents = load_contents(place.storage.as_ref(), &place.path, At::Planned).await?;
    let mut report = inspect(&contents, Timestamp::now());
    report.uri = place.uri().to_string();
    Ok(report)
}

pub(super) async fn show(args: &InspectArgs, app: &App, context: &mut Context) -> Result<Status> {
    let report = inspection(&place(app, &args.uri)?).await?;
    context.out.result(&report)?;
    Ok(Exit::Ok.into())
}

pub(super) async fn check(args: &VerifyArgs, app: &App, context: &mut Context) -> Result<Status> {
    let place = place(app, &args.uri)?;
    let thoroughness = if args.deep {
        Thoroughness::Deep
    } else {
        Thoroughness::Quick
    };
    let options = VerifyOptions::in_place(thoroughness);
    let mut verification = verify(place.storage.as_ref(), &place.path, options).await?;
    verification.uri = place.uri().to_string();
    context.out.result(&verification)?;
    // What was not looked at is unknown, and unknown is not sound.
    let sound = verification.verdict == Verdict::Sound && verification.not_checked.is_empty();
    Ok(if sound { Exit::Ok } else { Exit::Findings }.into())
}

pub(super) async fn compare(args: &DiffArgs, app: &App, context: &mut Context) -> Result<Status> {
    let (a, b) = (place(app, &args.a)?, place(app, &args.b)?);
    let (a, b) = (inspection(&a).await?, inspection(&b).await?);
    for found in [&a, &b] {
        // A query that never ran can be compared; what is no query's would differ in everything.
        if !matches!(found.kind, DirectoryKind::Query | DirectoryKind::Empty) {
            let why = format!("{} is not the checkpoint of a streaming query", found.uri);
            return Err(Failure::new(Exit::Failed, why));
        }
    }
    let difference = diff(&a, &b);
    context.out.result(&difference)?;
    let same = difference.same;
    Ok(if same { Exit::Ok } else { Exit::Findings }.into())
}
