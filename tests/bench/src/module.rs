// SPDX-License-Identifier: GPL-2.0

//! How large a module is, by what its sections are for.

use crate::figure::{Figure, NONE, OURS};
use anyhow::{Context, Result};
use goblin::elf::Elf;
use goblin::elf::section_header::{SHF_ALLOC, SHF_EXECINSTR, SHF_WRITE};
use std::fs;
use std::path::Path;

/// Bytes of the sections that are loaded and kept. `.init` goes again, and counts for itself.
pub fn figures(path: &Path) -> Result<Vec<Figure>> {
    let file = fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let elf = Elf::parse(&file).with_context(|| format!("{} is no ELF file", path.display()))?;
    let [mut text, mut rodata, mut data, mut init] = [0; 4];
    for section in &elf.section_headers {
        let has = |flag: u32| section.sh_flags & u64::from(flag) != 0;
        if !has(SHF_ALLOC) {
            continue;
        }
        let name = elf.shdr_strtab.get_at(section.sh_name).unwrap_or_default();
        let kind = if name.starts_with(".init") {
            &mut init
        } else if has(SHF_EXECINSTR) {
            &mut text
        } else if has(SHF_WRITE) {
            &mut data
        } else {
            &mut rodata
        };
        *kind += section.sh_size;
    }
    let kinds = [
        ("text", text),
        ("rodata", rodata),
        ("data", data),
        ("init", init),
    ];
    Ok(kinds
        .into_iter()
        .map(|(kind, size)| Figure {
            name: format!("module.{kind}"),
            clock: OURS.to_owned(),
            mode: NONE.to_owned(),
            host: NONE.to_owned(),
            value: size as f64,
            unit: "bytes".to_owned(),
            control: None,
            ratio: None,
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_has_text_and_data() {
        let own = std::env::current_exe().unwrap();
        let found = figures(&own).unwrap();
        assert_eq!(found.len(), 4);
        assert!(found[..3].iter().all(|f| f.value > 0.0), "{found:?}");
        let size = fs::metadata(&own).unwrap().len() as f64;
        assert!(found[0].value + found[1].value < size);
        assert!(figures(Path::new("/etc/passwd")).is_err());
    }
}
