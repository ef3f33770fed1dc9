//! A storage that fails as a test's script says, and counts the calls that it gets.

use std::fmt::Debug;
use std::future::{Future, pending};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};

pub use super::fault_script::{Fault, FaultScript, Operation, Signal, When};
use super::{
    Attributes, Authority, ByteStream, CreateMode, Depth, DirIdentity, ErrorKind, FileStat,
    OwnedTree, Removal, Result, Span, Storage, StorageError, StoragePath, StorageUri, Touched,
    Writer,
};

/// A storage with injected faults. The script is shared: a test keeps a clone of it and changes it while
/// the code under test runs.
#[derive(Debug)]
pub struct Faulty<S> {
    inner: Arc<S>,
    script: FaultScript,
}

impl<S> Clone for Faulty<S> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            script: self.script.clone(),
        }
    }
}

impl<S: Storage + 'static> Faulty<S> {
    /// `inner` with the faults of `script`.
    pub fn new(inner: S, script: FaultScript) -> Self {
        Self {
            inner: Arc::new(inner),
            script,
        }
    }

    fn gate(&self, operation: Operation, path: &StoragePath) -> Gate {
        Gate::enter(&self.script, self.inner.authority(), operation, path)
    }
}

/// One call that has been counted and has met its fault, if there is one.
#[derive(Debug)]
struct Gate {
    script: FaultScript,
    operation: Operation,
    uri: StorageUri,
    fault: Option<Fault>,
}

impl Gate {
    fn enter(
        script: &FaultScript,
        authority: &Authority,
        operation: Operation,
        path: &StoragePath,
    ) -> Self {
        Self {
            script: script.clone(),
            operation,
            uri: StorageUri::new(authority.clone(), path.clone()),
            fault: script.enter(operation, path),
        }
    }

    fn error(&self, kind: ErrorKind) -> StorageError {
        StorageError::new(self.operation.as_str(), self.uri.clone(), kind)
            .with_detail("injected by the test")
    }

    /// What the caller of `call` gets to see.
    async fn pass<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        match &self.fault {
            None | Some(Fault::ListWithout(_) | Fault::EndEarly(_)) => call.await,
            Some(Fault::Refuse(kind)) => Err(self.error(*kind)),
            Some(Fault::LoseAnswer) => {
                // Whatever it was, no one hears of it.
                let _ = call.await;
                Err(self.error(if self.operation.is_change() {
                    ErrorKind::OutcomeUnknown
                } else {
                    ErrorKind::Unreachable
                }))
            }
            Some(Fault::Hang) => pending().await,
            Some(Fault::ExecuteLate(signal)) => {
                let (signal, script) = (signal.clone(), self.script.clone());
                // A task of its own, since the caller drops this future when it gives up.
                drop(tokio::spawn(async move {
                    signal.given().await;
                    let _ = call.await;
                    script.late_call_ended();
                }));
                pending().await
            }
            Some(Fault::Delay(delay)) => {
                tokio::time::sleep(*delay).await;
                call.await
            }
        }
    }
}

#[async_trait]
impl<S: Storage + 'static> Storage for Faulty<S> {
    fn authority(&self) -> &Authority {
        self.inner.authority()
    }

    fn epoch(&self) -> u64 {
        self.inner.epoch()
    }

    async fn stat(&self, path: &StoragePath) -> Result<FileStat> {
        let gate = self.gate(Operation::Stat, path);
        let (inner, path) = (self.inner.clone(), path.clone());
        gate.pass(async move { inner.stat(&path).await }).await
    }

    async fn identify_dir(&self, dir: &StoragePath) -> Result<DirIdentity> {
        let gate = self.gate(Operation::IdentifyDir, dir);
        let (inner, dir) = (self.inner.clone(), dir.clone());
        gate.pass(async move { inner.identify_dir(&dir).await })
            .await
    }

    async fn list(&self, dir: &StoragePath, depth: Depth) -> Result<Vec<FileStat>> {
        let gate = self.gate(Operation::List, dir);
        let (inner, dir) = (self.inner.clone(), dir.clone());
        let mut entries = gate
            .pass(async move { inner.list(&dir, depth).await })
            .await?;
        if let Some(Fault::ListWithout(names)) = &gate.fault {
            entries.retain(|entry| !names.iter().any(|name| name == entry.path.name()));
        }
        Ok(entries)
    }

    async fn read_small(&self, path: &StoragePath, max_bytes: u64) -> Result<Bytes> {
        let gate = self.gate(Operation::ReadSmall, path);
        let (inner, path) = (self.inner.clone(), path.clone());
        let mut content = gate
            .pass(async move { inner.read_small(&path, max_bytes).await })
            .await?;
        if let Some(Fault::EndEarly(bytes)) = &gate.fault {
            content.truncate(usize::try_from(*bytes).unwrap_or(usize::MAX));
        }
        Ok(content)
    }

    async fn read_span(&self, path: &StoragePath, span: Span) -> Result<Bytes> {
        let gate = self.gate(Operation::ReadSpan, path);
        let (inner, path) = (self.inner.clone(), path.clone());
        let mut content = gate
            .pass(async move { inner.read_span(&path, span).await })
            .await?;
        if let Some(Fault::EndEarly(bytes)) = &gate.fault {
            content.truncate(usize::try_from(*bytes).unwrap_or(usize::MAX));
        }
        Ok(content)
    }

    async fn open_read(&self, path: &StoragePath) -> Result<ByteStream> {
        let gate = self.gate(Operation::OpenRead, path);
        let (inner, opened) = (self.inner.clone(), path.clone());
        let pieces = gate
            .pass(async move { inner.open_read(&opened).await })
            .await?;
        let reading = FaultyReading {
            pieces,
            script: self.script.clone(),
            authority: self.inner.authority().clone(),
            path: path.clone(),
            bytes_left: match gate.fault {
                Some(Fault::EndEarly(bytes)) => bytes,
                _ => u64::MAX,
            },
        };
        Ok(stream::unfold(Some(reading), |reading| async move {
            let mut reading = reading?;
            match reading.next_piece().await {
                Ok(Some(piece)) => Some((Ok(piece), Some(reading))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }

    async fn create(&self, path: &StoragePath, mode: CreateMode) -> Result<Box<dyn Writer>> {
        let gate = self.gate(Operation::Create, path);
        let (inner, created) = (self.inner.clone(), path.clone());
        let writer = gate
            .pass(async move { inner.create(&created, mode).await })
            .await?;
        Ok(Box::new(FaultyWriter {
            inner: Some(writer),
            script: self.script.clone(),
            authority: self.inner.authority().clone(),
            path: path.clone(),
        }))
    }

    async fn touch(&self, path: &StoragePath) -> Result<Touched> {
        let gate = self.gate(Operation::Touch, path);
        let (inner, path) = (self.inner.clone(), path.clone());
        gate.pass(async move { inner.touch(&path).await }).await
    }

    async fn create_dir_all(&self, dir: &StoragePath) -> Result<()> {
        let gate = self.gate(Operation::CreateDirAll, dir);
        let (inner, dir) = (self.inner.clone(), dir.clone());
        gate.pass(async move { inner.create_dir_all(&dir).await })
            .await
    }

    async fn create_dir(&self, dir: &StoragePath) -> Result<()> {
        let gate = self.gate(Operation::CreateDir, dir);
        let (inner, dir) = (self.inner.clone(), dir.clone());
        gate.pass(async move { inner.create_dir(&dir).await }).await
    }

    async fn rename(&self, from: &StoragePath, to: &StoragePath) -> Result<()> {
        let gate = self.gate(Operation::Rename, from);
        let (inner, from, to) = (self.inner.clone(), from.clone(), to.clone());
        gate.pass(async move { inner.rename(&from, &to).await })
            .await
    }

    async fn delete_file(&self, path: &StoragePath) -> Result<Removal> {
        let gate = self.gate(Operation::DeleteFile, path);
        let (inner, path) = (self.inner.clone(), path.clone());
        gate.pass(async move { inner.delete_file(&path).await })
            .await
    }

    async fn delete_tree(&self, tree: &OwnedTree) -> Result<Removal> {
        let gate = self.gate(Operation::DeleteTree, tree.path());
        let (inner, tree) = (self.inner.clone(), tree.clone());
        gate.pass(async move { inner.delete_tree(&tree).await })
            .await
    }

    async fn make_durable(&self, dir: &StoragePath) -> Result<()> {
        let gate = self.gate(Operation::MakeDurable, dir);
        let (inner, dir) = (self.inner.clone(), dir.clone());
        gate.pass(async move { inner.make_durable(&dir).await })
            .await
    }

    async fn set_attributes(&self, path: &StoragePath, attributes: &Attributes) -> Result<()> {
        let gate = self.gate(Operation::SetAttributes, path);
        let (inner, path, attributes) = (self.inner.clone(), path.clone(), attributes.clone());
        gate.pass(async move { inner.set_attributes(&path, &attributes).await })
            .await
    }
}

struct FaultyReading {
    pieces: ByteStream,
    script: FaultScript,
    authority: Authority,
    path: StoragePath,
    bytes_left: u64,
}

impl FaultyReading {
    async fn next_piece(&mut self) -> Result<Option<Bytes>> {
        let operation = Operation::ReadPiece;
        let gate = Gate::enter(&self.script, &self.authority, operation, &self.path);
        // The stream cannot move into the gate's future, so the piece is read before it.
        let piece = match &gate.fault {
            Some(Fault::Refuse(_) | Fault::Hang | Fault::ExecuteLate(_)) => Ok(None),
            _ if self.bytes_left == 0 => Ok(None),
            _ => self.pieces.next().await.transpose(),
        };
        let piece = gate.pass(async move { piece }).await?;
        Ok(piece.map(|mut piece| {
            piece.truncate(usize::try_from(self.bytes_left).unwrap_or(usize::MAX));
            self.bytes_left -= piece.len() as u64;
            piece
        }))
    }
}

#[derive(Debug)]
struct FaultyWriter {
    /// `None` while a call has it; lost if that call never ended.
    inner: Option<Box<dyn Writer>>,
    script: FaultScript,
    authority: Authority,
    path: StoragePath,
}

impl FaultyWriter {
    fn take(&mut self, operation: Operation) -> Result<(Gate, Box<dyn Writer>)> {
        let gate = Gate::enter(&self.script, &self.authority, operation, &self.path);
        match self.inner.take() {
            Some(inner) => Ok((gate, inner)),
            None => Err(gate.error(ErrorKind::Other)),
        }
    }
}

#[async_trait]
impl Writer for FaultyWriter {
    async fn write(&mut self, data: Bytes) -> Result<()> {
        let (gate, mut inner) = self.take(Operation::Write)?;
        let (give_back, returned) = tokio::sync::oneshot::channel();
        // A write that is refused before it is made leaves the writer where it is, for the abort.
        if let Some(Fault::Refuse(kind)) = &gate.fault {
            self.inner = Some(inner);
            return Err(gate.error(*kind));
        }
        let written = gate
            .pass(async move {
                let written = inner.write(data).await;
                // Fails only where the caller has gone.
                let _ = give_back.send(inner);
                written
            })
            .await;
        self.inner = returned.await.ok();
        written
    }

    async fn finish(mut self: Box<Self>) -> Result<()> {
        let (gate, inner) = self.take(Operation::Finish)?;
        gate.pass(async move { inner.finish().await }).await
    }

    async fn abort(mut self: Box<Self>) -> Result<()> {
        let (gate, inner) = self.take(Operation::Abort)?;
        gate.pass(async move { inner.abort().await }).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::TryStreamExt;

    use super::*;
    use crate::storage::memory::MemoryStorage;

    fn path(text: &str) -> StoragePath {
        StoragePath::parse(text).unwrap()
    }

    fn kind<T>(outcome: Result<T>) -> ErrorKind {
        outcome.map(drop).unwrap_err().kind
    }

    struct Bench {
        memory: MemoryStorage,
        script: FaultScript,
        storage: Faulty<MemoryStorage>,
        file: StoragePath,
    }

    fn bench() -> Bench {
        let memory = MemoryStorage::new("m");
        let file = path("/dir/file");
        memory.put(&file, "0123456789").unwrap();
        let script = FaultScript::new();
        Bench {
            storage: Faulty::new(memory.clone(), script.clone()),
            memory,
            script,
            file,
        }
    }

    #[tokio::test]
    async fn a_fault_meets_the_calls_that_it_is_meant_for() {
        let Bench {
            script,
            storage,
            file,
            ..
        } = bench();
        let other = path("/dir2/file");
        let refuse = |kind| Fault::Refuse(kind);
        script.inject(
            When::on(Operation::Stat).at(&file).nth(2),
            refuse(ErrorKind::Standby),
        );
        script.inject(
            When::on(Operation::Stat)
                .within(&path("/dir"))
                .after(2)
                .times(2),
            refuse(ErrorKind::SafeMode),
        );
        let mut seen = Vec::new();
        for _ in 0..6 {
            seen.push(
                storage
                    .stat(&file)
                    .await
                    .map(drop)
                    .map_err(|error| error.kind),
            );
        }
        let expected = [
            Ok(()),
            Err(ErrorKind::Standby),
            Err(ErrorKind::SafeMode),
            Err(ErrorKind::SafeMode),
            Ok(()),
            Ok(()),
        ];
        assert_eq!(seen, expected);
        assert_eq!(kind(storage.stat(&other).await), ErrorKind::NotFound);
        storage.read_small(&file, 10).await.unwrap();
        assert_eq!(script.calls(Operation::Stat), 7);
        assert_eq!(script.calls_at(Operation::Stat, &file), 6);
        assert_eq!((script.all_calls(), script.faults()), (8, 3));
        script.reset_counts();
        assert_eq!((script.all_calls(), script.faults()), (0, 0));
    }

    #[tokio::test]
    async fn a_refused_change_is_not_made_and_one_without_answer_is() {
        let Bench {
            memory,
            script,
            storage,
            file,
        } = bench();
        let to = path("/dir/to");
        let refused = When::on(Operation::Rename).nth(1);
        script.inject(refused, Fault::Refuse(ErrorKind::PermissionDenied));
        script.inject(When::on(Operation::Rename).nth(2), Fault::LoseAnswer);
        assert_eq!(
            kind(storage.rename(&file, &to).await),
            ErrorKind::PermissionDenied
        );
        assert_eq!(memory.paths().last(), Some(&file));
        assert_eq!(
            kind(storage.rename(&file, &to).await),
            ErrorKind::OutcomeUnknown
        );
        assert_eq!(memory.paths().last(), Some(&to));
        script.inject(When::on(Operation::Stat), Fault::LoseAnswer);
        assert_eq!(kind(storage.stat(&to).await), ErrorKind::Unreachable);
    }

    #[tokio::test]
    async fn a_late_call_is_executed_though_its_caller_is_gone() {
        let Bench {
            memory,
            script,
            storage,
            file,
        } = bench();
        let signal = Signal::new();
        script.inject(
            When::on(Operation::DeleteFile),
            Fault::ExecuteLate(signal.clone()),
        );
        {
            let delete = storage.delete_file(&file);
            futures::pin_mut!(delete);
            assert!(futures::poll!(&mut delete).is_pending());
        }
        tokio::task::yield_now().await;
        assert!(memory.paths().contains(&file), "not before the signal");
        signal.give();
        let executed = async {
            while script.late_calls() == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), executed)
            .await
            .unwrap();
        assert!(!memory.paths().contains(&file));
    }

    #[tokio::test]
    async fn a_hung_call_is_never_executed() {
        let Bench {
            memory,
            script,
            storage,
            file,
        } = bench();
        script.inject(When::on(Operation::DeleteFile), Fault::Hang);
        let delete = storage.delete_file(&file);
        let outcome = tokio::time::timeout(Duration::from_millis(20), delete).await;
        assert!(outcome.is_err());
        assert!(memory.paths().contains(&file));
    }

    #[tokio::test]
    async fn answers_can_lie() {
        let Bench {
            script,
            storage,
            file,
            ..
        } = bench();
        let missing = Fault::ListWithout(vec!["file".to_owned()]);
        script.inject(When::on(Operation::List), missing);
        script.inject(When::on(Operation::ReadSmall), Fault::EndEarly(3));
        script.inject(When::on(Operation::OpenRead), Fault::EndEarly(4));
        let listed = storage.list(&path("/"), Depth::Tree).await.unwrap();
        assert_eq!(listed.len(), 1);
        assert_eq!(storage.read_small(&file, 10).await.unwrap(), "012");
        let pieces = storage.open_read(&file).await.unwrap();
        let pieces: Vec<Bytes> = pieces.try_collect().await.unwrap();
        assert_eq!(pieces, ["0123"]);
    }

    #[tokio::test]
    async fn faults_of_a_writer_leave_it_to_its_abort() {
        let Bench {
            memory,
            script,
            storage,
            ..
        } = bench();
        let file = path("/dir/new");
        let full = Fault::Refuse(ErrorKind::NoSpace);
        script.inject(When::on(Operation::Write).at(&file).nth(2), full.clone());
        let mut writer = storage.create(&file, CreateMode::Scratch).await.unwrap();
        writer.write(Bytes::from_static(b"x")).await.unwrap();
        let refused = writer.write(Bytes::from_static(b"y")).await;
        assert_eq!(kind(refused), ErrorKind::NoSpace);
        writer.abort().await.unwrap();
        assert!(!memory.paths().contains(&file));

        script.inject(When::on(Operation::Finish).nth(1), full);
        script.inject(When::on(Operation::Finish).nth(2), Fault::LoseAnswer);
        for (expected, visible) in [
            (ErrorKind::NoSpace, false),
            (ErrorKind::OutcomeUnknown, true),
        ] {
            let writer = storage.create(&file, CreateMode::New).await.unwrap();
            assert_eq!(kind(writer.finish().await), expected);
            assert_eq!(memory.paths().contains(&file), visible);
        }
    }
}
