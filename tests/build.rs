//! Compiles the test guests of tests/guest, each a program that a VMM boots.

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
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
    Ok(())
}
