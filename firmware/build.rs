//! Compiles the built-in guest, which `firmware::builtin` embeds.

use std::env;
use std::error::Error;
use std::path::PathBuf;

#[path = "guest/compile.rs"]
mod compile;

fn main() -> Result<(), Box<dyn Error>> {
    let folder = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("guest");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let runtime = compile::Runtime::build(&folder, &out)?;
    compile::rerun_if_changed(&folder.join("builtin"));
    let mut compiler = runtime.start("builtin", &folder.join("builtin/main.rs"))?;
    compile::finish(&mut compiler, "builtin")?;
    println!(
        "cargo::rustc-env=BUILTIN_GUEST={}",
        runtime.image("builtin").display()
    );
    Ok(())
}
