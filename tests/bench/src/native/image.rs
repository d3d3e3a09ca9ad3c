// SPDX-License-Identifier: GPL-2.0

//! A piece of the kernel's user-space code in this process: mapped behind its data pages, with its
//! alternatives patched for this CPU, as `arch/x86/entry/vdso/vma.c` and `arch/x86/kernel/alternative.c`
//! do it.

use anyhow::{Context, Result, bail, ensure};
use core::arch::x86_64::{__cpuid, __cpuid_count};
use goblin::elf::program_header::PT_LOAD;
use goblin::elf::{Elf, Sym};
use std::collections::BTreeMap;
use std::ffi::c_void;
use std::path::Path;
use std::{fs, ptr};

const PAGE: usize = 4096;

/// A mapped image. Its symbols may stand below it, where the data pages are.
pub struct Image {
    memory: *mut u8,
    size: usize,
    /// Where address 0 of the image is, from `memory`.
    base: usize,
    symbols: BTreeMap<String, u64>,
}

/// What the kernel calls the instructions that this CPU may have.
#[derive(Clone, Copy, Debug)]
pub struct Features {
    pub lfence_rdtsc: u32,
    pub rdtscp: u32,
    pub rdpid: u32,
}

impl Features {
    /// Whether this CPU has the feature of a number; `None` where the number is not known.
    fn has(self, number: u32) -> Option<bool> {
        const EXTENDED: u32 = 0x8000_0001;
        if number == self.lfence_rdtsc {
            // The kernel sees to it on every CPU that is not ancient; RDTSCP is preferred to it.
            Some(true)
        } else if number == self.rdtscp {
            Some(__cpuid(0x8000_0000).eax >= EXTENDED && __cpuid(EXTENDED).edx & 1 << 27 != 0)
        } else if number == self.rdpid {
            Some(__cpuid(0).eax >= 7 && __cpuid_count(7, 0).ecx & 1 << 22 != 0)
        } else {
            None
        }
    }
}

/// `struct alt_instr` of `arch/x86/include/asm/alternative.h`, packed; its size is checked against the
/// kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Alternative {
    /// From this field itself.
    instruction: i32,
    /// From this field itself.
    replacement: i32,
    feature: u16,
    flags: u16,
    length: u8,
    replacement_length: u8,
}

impl Alternative {
    const SIZE: usize = 14;
    /// Where the field `replacement` is.
    const REPLACEMENT: usize = 4;

    fn parse(b: &[u8]) -> Option<Self> {
        let b: &[u8; Self::SIZE] = b.try_into().ok()?;
        Some(Self {
            instruction: i32::from_le_bytes([b[0], b[1], b[2], b[3]]),
            replacement: i32::from_le_bytes([b[4], b[5], b[6], b[7]]),
            feature: u16::from_le_bytes([b[8], b[9]]),
            flags: u16::from_le_bytes([b[10], b[11]]),
            length: b[12],
            replacement_length: b[13],
        })
    }
}

/// Fills what a replacement leaves of the instruction that it replaces, as the kernel does: by the
/// fewest instructions.
fn pad(mut rest: &mut [u8]) {
    const NOPS: [&[u8]; 5] = [
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
    ];
    while !rest.is_empty() {
        let nop = NOPS[rest.len().min(NOPS.len()) - 1];
        let (head, tail) = rest.split_at_mut(nop.len());
        head.copy_from_slice(nop);
        rest = tail;
    }
}

/// Patches the alternatives of a loaded image, and returns how many were taken.
fn patch(code: &mut [u8], table: core::ops::Range<usize>, features: Features) -> Result<usize> {
    let outside = "an alternative outside of the image";
    let entries = code.get(table.clone()).context(outside)?.to_vec();
    ensure!(
        entries.len() % Alternative::SIZE == 0,
        "the image's table of alternatives has {} bytes, no multiple of {}",
        entries.len(),
        Alternative::SIZE
    );
    let mut taken = 0;
    for (i, entry) in entries.chunks(Alternative::SIZE).enumerate() {
        let alternative = Alternative::parse(entry).context(outside)?;
        let at = table.start + i * Alternative::SIZE;
        if alternative.flags != 0 {
            bail!("an alternative of a kind that is not known here: {alternative:?}");
        }
        let feature = u32::from(alternative.feature);
        let has = features.has(feature).with_context(|| {
            format!("an alternative of CPU feature {feature}, which is not known here")
        })?;
        if !has {
            continue;
        }
        let locate = |field: usize, offset: i32, length: u8| {
            let start = field.checked_add_signed(offset as isize)?;
            Some(start..start.checked_add(usize::from(length))?)
        };
        let from = locate(
            at + Alternative::REPLACEMENT,
            alternative.replacement,
            alternative.replacement_length,
        )
        .and_then(|r| code.get(r))
        .context(outside)?
        .to_vec();
        let to = locate(at, alternative.instruction, alternative.length)
            .and_then(|r| code.get_mut(r))
            .context(outside)?;
        // A jump or a call would have to be corrected for its new place.
        if matches!(from.first(), Some(0xe8 | 0xe9 | 0xeb | 0x70..=0x7f)) || from.len() > to.len() {
            bail!("an alternative that cannot be copied as it is: {alternative:?}");
        }
        let (head, tail) = to.split_at_mut(from.len());
        head.copy_from_slice(&from);
        pad(tail);
        taken += 1;
    }
    Ok(taken)
}

impl Image {
    /// Maps `path`. The symbols are those of `symbols`, the same image before it was stripped.
    pub fn map(
        path: &Path,
        symbols: &Path,
        features: impl FnOnce(&Elf, &[u8]) -> Result<Features>,
    ) -> Result<Self> {
        let read = |path: &Path| {
            fs::read(path)
                .with_context(|| format!("cannot read {}; is the kernel built?", path.display()))
        };
        let (file, unstripped) = (read(path)?, read(symbols)?);
        Self::load(&file, &unstripped, features)
            .with_context(|| format!("cannot map {}", path.display()))
    }

    fn load(
        file: &[u8],
        unstripped: &[u8],
        features: impl FnOnce(&Elf, &[u8]) -> Result<Features>,
    ) -> Result<Self> {
        let elf = Elf::parse(file).context("it is no ELF file")?;
        let with_symbols = Elf::parse(unstripped).context("its unstripped twin is no ELF file")?;
        if !elf.dynrelas.is_empty() || !elf.dynrels.is_empty() || !elf.pltrelocs.is_empty() {
            bail!("it has relocations, and nobody here to apply them");
        }
        let symbols: BTreeMap<String, u64> = with_symbols
            .syms
            .iter()
            .filter_map(|s: Sym| {
                Some((
                    with_symbols.strtab.get_at(s.st_name)?.to_owned(),
                    s.st_value,
                ))
            })
            .filter(|(name, _)| !name.is_empty())
            .collect();
        let features = features(&with_symbols, unstripped)?;

        let loads: Vec<_> = elf
            .program_headers
            .iter()
            .filter(|p| p.p_type == PT_LOAD)
            .collect();
        let end = loads
            .iter()
            .map(|p| p.p_vaddr + p.p_memsz)
            .max()
            .context("it has nothing to load")?;
        // Data pages have addresses below 0.
        let below = symbols
            .values()
            .map(|&v| v as i64)
            .filter(|v| *v < 0)
            .min()
            .unwrap_or(0);
        let base = usize::try_from(below.unsigned_abs())?.next_multiple_of(PAGE);
        let length = usize::try_from(end)?.next_multiple_of(PAGE);
        let mut code = vec![0; length];
        for load in loads {
            let data = file.get(load.file_range()).context("it is cut short")?;
            let at = usize::try_from(load.p_vaddr)?;
            code.get_mut(at..at + data.len())
                .context("a segment beyond its end")?
                .copy_from_slice(data);
        }
        let table = elf
            .section_headers
            .iter()
            .find(|s| elf.shdr_strtab.get_at(s.sh_name) == Some(".altinstructions"))
            .context("it has no alternatives")?;
        let table =
            usize::try_from(table.sh_addr)?..usize::try_from(table.sh_addr + table.sh_size)?;
        ensure!(
            patch(&mut code, table, features)? > 0,
            "no alternative is this CPU's"
        );

        let size = base + length;
        // SAFETY: A new mapping, anywhere.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error()).context("cannot map memory");
        }
        let image = Self {
            memory: memory.cast(),
            size,
            base,
            symbols,
        };
        // SAFETY: `code` has as many bytes as there are from `base` on in the mapping.
        let protected = unsafe {
            let start = image.memory.add(base);
            ptr::copy_nonoverlapping(code.as_ptr(), start, length);
            libc::mprotect(start.cast(), length, libc::PROT_READ | libc::PROT_EXEC)
        };
        if protected != 0 {
            return Err(std::io::Error::last_os_error()).context("cannot make the code executable");
        }
        Ok(image)
    }

    /// Where a symbol is.
    pub fn symbol(&self, name: &str) -> Result<*mut c_void> {
        let value = *self
            .symbols
            .get(name)
            .with_context(|| format!("the kernel's image has no symbol {name}"))?;
        let at = self
            .base
            .checked_add_signed(value as i64 as isize)
            .filter(|at| *at < self.size)
            .with_context(|| format!("the symbol {name} lies outside of the image"))?;
        // SAFETY: It is inside of the mapping.
        Ok(unsafe { self.memory.add(at) }.cast())
    }

    /// A constant of the image.
    pub fn constant(&self, name: &str) -> Result<u32> {
        let at = self.symbol(name)?.cast::<u32>();
        // SAFETY: It is inside of the mapping, which is not changed any more; the rest is up to the
        // names.
        Ok(unsafe { at.read_unaligned() })
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // SAFETY: It is our mapping. Whoever has taken a function of it keeps the image: see Clocks.
        unsafe { libc::munmap(self.memory.cast(), self.size) };
    }
}

/// A constant of an image that is not loaded yet.
pub fn constant(elf: &Elf, file: &[u8], name: &str) -> Result<u32> {
    let symbol = elf
        .syms
        .iter()
        .find(|s| elf.strtab.get_at(s.st_name) == Some(name))
        .with_context(|| format!("no symbol {name}"))?;
    let section = elf
        .section_headers
        .get(symbol.st_shndx)
        .with_context(|| format!("the symbol {name} stands in no section"))?;
    let at = usize::try_from(symbol.st_value - section.sh_addr + section.sh_offset)?;
    let bytes = file
        .get(at..at + 4)
        .with_context(|| format!("{name} is cut short"))?;
    Ok(u32::from_le_bytes(bytes.try_into()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FEATURES: Features = Features {
        lfence_rdtsc: 1,
        rdtscp: 2,
        rdpid: 3,
    };

    /// An instruction of 5 bytes, replacements of 3 bytes, and the table.
    fn code(feature: u16, flags: u16) -> (Vec<u8>, core::ops::Range<usize>) {
        let mut code = vec![0x0f, 0x31, 0x90, 0x90, 0x90, 0x0f, 0x01, 0xf9];
        let table = code.len();
        code.extend((-(table as i32)).to_le_bytes());
        code.extend((5 - (table as i32 + 4)).to_le_bytes());
        code.extend(feature.to_le_bytes());
        code.extend(flags.to_le_bytes());
        code.extend([5, 3]);
        let end = code.len();
        (code, table..end)
    }

    #[test]
    fn a_feature_of_this_cpu_is_patched_in() {
        let (mut code, table) = code(1, 0);
        assert_eq!(patch(&mut code, table, FEATURES).unwrap(), 1);
        assert_eq!(code[..5], [0x0f, 0x01, 0xf9, 0x66, 0x90]);
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for (feature, flags, word) in [(9, 0, "feature 9"), (1, 1, "kind")] {
            let (mut code, table) = code(feature, flags);
            let error = patch(&mut code, table, FEATURES).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
        }
        let (mut code, table) = code(1, 0);
        code[5] = 0xe8;
        assert!(patch(&mut code, table, FEATURES).is_err());
        let (mut code, table) = self::code(1, 0);
        let end = table.end;
        assert!(patch(&mut code, table.start..end - 1, FEATURES).is_err());
    }

    #[test]
    fn nops_fill_up() {
        let mut rest = [0; 7];
        pad(&mut rest);
        assert_eq!(rest, [0x0f, 0x1f, 0x44, 0, 0, 0x66, 0x90]);
    }
}
