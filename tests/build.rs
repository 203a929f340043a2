//! Compiles the test guests of tests/guest, each a program that a VMM boots, and the programs of
//! tests/programs, which run on any Linux.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread::available_parallelism;

#[path = "../firmware/guest/compile.rs"]
mod compile;

fn main() -> Result<(), Box<dyn Error>> {
    let tests = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let runtime = compile::Runtime::build(&tests.join("../firmware/guest"), &out)?;
    compile::rerun_if_changed(&tests.join("guest"));

    let mut programs = Vec::new();
    for entry in fs::read_dir(tests.join("guest"))? {
        let source = entry?.path();
        if source
            .extension()
            .is_some_and(|extension| extension == "rs")
        {
            programs.push(source);
        }
    }
    programs.sort();
    for group in programs.chunks(available_parallelism()?.get()) {
        let mut compilers = Vec::new();
        for source in group {
            let name = source
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned();
            compilers.push((runtime.start(&name, source)?, name));
        }
        for (mut compiler, name) in compilers {
            compile::finish(&mut compiler, &name)?;
        }
    }
    compile::rerun_if_changed(&tests.join("programs"));
    build_program(&tests.join("programs/sockets.rs"), &out.join("sockets"))?;
    Ok(())
}

/// Compiles a static program that needs nothing of where it runs.
fn build_program(source: &Path, program: &Path) -> Result<(), Box<dyn Error>> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let mut compiler = Command::new(rustc);
    compiler
        .args([
            "--edition=2024",
            "--target=x86_64-unknown-linux-gnu",
            "-Ctarget-feature=+crt-static",
            "-Copt-level=s",
            "-Cpanic=abort",
            "-Cstrip=symbols",
        ])
        .arg(source)
        .arg("-o")
        .arg(program);
    compile::finish(&mut compiler.spawn()?, "sockets")?;
    Ok(())
}
