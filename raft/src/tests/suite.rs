//! openraft's own tests of a log store and a state machine.

use crate::group::{Group, Herald, LogStore, Machine};
use crate::store::Store;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use std::sync::Arc;
use tempfile::TempDir;

struct Disk;

impl StoreBuilder<Group, LogStore, Machine, TempDir> for Disk {
    async fn build(&self) -> Result<(TempDir, LogStore, Machine), StorageError<Group>> {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        // The suite writes histories that no cluster has, so nobody checks the story.
        let herald = Arc::new(Herald::new(Arc::new(super::Deaf)));
        let machine = Machine::restore(store.clone(), herald.clone());
        Ok((dir, LogStore::new(store, herald), machine))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_store_passes_the_suite_of_openraft() {
    Suite::test_all(Disk).await.unwrap();
}
