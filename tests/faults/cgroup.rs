//! A control group of version 1 for one of the processes under test. It goes when dropped.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

pub struct Cgroup {
    controller: PathBuf,
    dir: PathBuf,
}

impl Cgroup {
    pub fn new(controller: &str, name: &str) -> Result<Self> {
        let controller = PathBuf::from("/sys/fs/cgroup").join(controller);
        ensure!(
            controller.join("tasks").exists(),
            "{}: not there; this fault needs control groups of version 1 (mount -t cgroup -o NAME)",
            controller.display()
        );
        let dir = controller.join(format!("hamesh-lab-{}-{name}", std::process::id()));
        fs::create_dir(&dir).with_context(|| dir.display().to_string())?;
        Ok(Self { controller, dir })
    }

    pub fn set(&self, file: &str, value: &str) -> Result<()> {
        let file = self.dir.join(file);
        fs::write(&file, value).with_context(|| format!("{value} into {}", file.display()))
    }

    pub fn get(&self, file: &str) -> Result<String> {
        let file = self.dir.join(file);
        Ok(fs::read_to_string(&file).with_context(|| file.display().to_string())?.trim().to_owned())
    }

    /// All threads of a process are in it from now on.
    pub fn take(&self, process: u32) -> Result<()> {
        self.set("cgroup.procs", &process.to_string())
    }

    /// Runs a program in it to its end.
    pub fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", self.dir.display());
        let mut command = Command::new("sh");
        command.arg("-c").arg(script).arg(program).args(args);
        let done = command.stdin(Stdio::null()).output().with_context(|| program.to_owned())?;
        ensure!(done.status.success(), "{program}: {}: {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
        Ok(())
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        for process in fs::read_to_string(self.dir.join("cgroup.procs")).unwrap_or_default().lines() {
            // One that has just ended is out too.
            drop(fs::write(self.controller.join("cgroup.procs"), process));
        }
        if let Err(error) = fs::remove_dir(&self.dir) {
            eprintln!("faults: {}: {error}", self.dir.display());
        }
    }
}
