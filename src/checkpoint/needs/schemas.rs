//! `state/<operator>/_metadata/` and schemas.

use super::{Needs, Role};
use crate::checkpoint::contents::{Contents, OperatorFile};
use crate::checkpoint::finding::{Code, Finding, Severity};
use crate::checkpoint::layout::{PathKind, StateFile, classify};
use crate::checkpoint::listing::Listed;
use crate::checkpoint::operator::{MoveRefused, relative_schema_path};
use crate::checkpoint::target::Target;
use crate::model::BatchId;

/// Schemas, and metadata of operators up to the batch that runs next.
pub(super) fn add_schemas(contents: &Contents, target: &Target, needs: &mut Needs) {
    let next = BatchId(target.state_version);
    let is_old = |batch: Option<BatchId>| batch.is_none_or(|batch| batch <= next);
    for file in contents.listing.below("state").filter(Listed::is_file) {
        let is_needed = match classify(file.path) {
            PathKind::State(path) => path.file == StateFile::Schema,
            PathKind::OperatorMetadata { batch, .. } | PathKind::StateSchema { batch, .. } => {
                is_old(batch)
            }
            PathKind::Metadata
            | PathKind::Offset(_)
            | PathKind::Commit(_)
            | PathKind::SourceLog { .. }
            | PathKind::SourceFile { .. }
            | PathKind::Temporary
            | PathKind::HadoopChecksum
            | PathKind::SparkChecksum
            | PathKind::Manifest
            | PathKind::Foreign => false,
        };
        if !is_needed {
            continue;
        }
        needs.add(Role::Schema, file.id);
        if let Some(operator) = contents.operators.get(&file.id) {
            add_operator(contents, file.path, operator, needs);
        }
    }
}

/// That metadata of an operator can be read, and that its schema files are where it says.
fn add_operator(contents: &Contents, path: &str, operator: &OperatorFile, needs: &mut Needs) {
    let metadata = match &operator.metadata {
        Ok(metadata) => metadata,
        Err(damage) => {
            let refused = MoveRefused::Damaged(damage.clone());
            needs.findings.push(operator_damage(path, &refused));
            return;
        }
    };
    for uri in metadata.schema_uris() {
        let elsewhere = contents.schemas_elsewhere.get(uri);
        if let Some(is_there) = elsewhere {
            needs.findings.push(schema_elsewhere(path, uri, *is_there));
        }
        if let Some(schema) = relative_schema_path(uri)
            && contents.listing.find(schema).is_none()
        {
            let severity = match elsewhere {
                Some(_) => Severity::Warning,
                None => Severity::Damage,
            };
            needs.findings.push(
                Finding::damage(Code::SchemaMissing, schema)
                    .with_severity(severity)
                    .expected(format!("the schema file that {path} names"))
                    .found("no such file in this checkpoint")
                    .spark(format!(
                        "the query fails: FileNotFoundException: {uri} does not exist"
                    )),
            );
        }
    }
}

/// The finding for metadata of an operator that cannot be used.
pub(crate) fn operator_damage(path: &str, refused: &MoveRefused) -> Finding {
    Finding::damage(Code::OperatorDamaged, path)
        .expected("name, stores and partitions of the operator as JSON")
        .found(refused.to_string())
        .spark("the query fails when it reads the operator's metadata (4.x)")
}

fn schema_elsewhere(path: &str, uri: &str, is_there: Option<bool>) -> Finding {
    let finding = Finding::damage(Code::SchemaElsewhere, path)
        .expected("schema files in this checkpoint, named by its own path")
        .spark(format!(
            "the query reads {uri}, not the file in this checkpoint; where that is gone it fails: \
             FileNotFoundException ... does not exist, after it made directories at that path"
        ));
    match is_there {
        Some(false) => finding.found(format!("{uri}, which does not exist")),
        Some(true) => finding
            .with_severity(Severity::Warning)
            .found(format!("{uri}, which exists")),
        None => finding
            .with_severity(Severity::Warning)
            .found(format!("{uri}, which was not looked at")),
    }
}
