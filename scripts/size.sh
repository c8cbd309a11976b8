#!/usr/bin/env bash
# What the node's core takes, by part and file, at -Os: on this host and on a Cortex-M4. Of what is not ours only what is used counts.
# Also the structs that a firmware keeps in RAM: the core allocates nothing itself; and, linked, what engine and front end take with
# all that they need of libgcc and the C library.
set -euo pipefail
cd "$(dirname "$0")/.."
flags="-fno-asynchronous-unwind-tables -ffunction-sections -fdata-sections -fno-stack-protector -Wno-error"
parts=(node_core node_nn node_frontend mbedtls monocypher)
updates='^(image|verify|slots|models|journal|nor|settings|smp[a-z_]*|sha256|sha512|monocypher)[.]' # files that a node without updates would not have
structs=(node_t sense_t image_t slots_t audio_frontend_t vibration_frontend_t clip_t)

quiet() { # only what fails is worth reading
    "$@" >build/size.log 2>&1 || { cat build/size.log; exit 1; }
}

# strip_unused FOLDER TOOLS' PREFIX COMPILER'S FLAGS PART...: leaves in these what others refer to, as a firmware's linker does.
strip_unused() {
    local folder=$1 prefix=$2 target=$3 part object wanted
    shift 3
    wanted=$("${prefix}nm" -u "$folder"/lib*.a | awk '$1 == "U" { print "-Wl,-u," $2 }' | sort -u)
    for part in "$@"; do
        rm -rf "$folder/used" && mkdir "$folder/used"
        "${prefix}ar" x --output "$folder/used" "$folder/lib$part.a"
        for object in "$folder"/used/*; do
            # shellcheck disable=SC2086 -- flags are words
            "${prefix}gcc" $target -r -nostdlib -Wl,--gc-sections $wanted "$object" -o "$object.used"
            mv "$object.used" "$object"
        done
        rm "$folder/lib$part.a"
        "${prefix}ar" rc "$folder/lib$part.a" "$folder"/used/*
    done
}

# measure TITLE FOLDER TOOLS' PREFIX COMPILER'S FLAGS [CMAKE OPTION...]
measure() {
    local title=$1 folder=$2 prefix=$3 target=$4 part
    shift 4
    quiet cmake -S node_firmware -B "$folder" -G Ninja -DCMAKE_BUILD_TYPE=MinSizeRel -DCMAKE_C_FLAGS="$target $flags" "$@"
    rm -f "$folder"/lib{mbedtls,monocypher}.a # as they were left by strip_unused
    quiet ninja -C "$folder" "${parts[@]}"
    strip_unused "$folder" "$prefix" "$target" mbedtls monocypher
    printf '\n%s: %s\n%-34s %9s %7s %7s\n' "$title" "$("${prefix}gcc" --version | head -n 1)" "bytes" text data bss
    for part in "${parts[@]}"; do
        "${prefix}size" "$(find "$folder" -name "lib$part.a")" | awk -v part="$part" '
            NR > 1 { sub(/\.o(bj)?$/, "", $6); lines = lines sprintf("  %-32s %9d %7d %7d\n", $6, $1, $2, $3); t += $1; d += $2; b += $3 }
            END { printf "%-34s %9d %7d %7d\n%s", part, t, d, b, lines }'
    done
    "${prefix}size" "$folder"/lib{node_core,mbedtls,monocypher}.a | awk -v updates="$updates" '
        $6 ~ updates { t += $1; d += $2; b += $3 }
        END { printf "%-34s %9d %7d %7d\n", "of all these, the update code", t, d, b }'
    {
        echo '#include "node/node.h"'
        echo '#include "node/frontend.h"'
        echo '#include "node/clip.h"'
        echo '#include "sense.h"'
        echo '#include "slots.h"'
        printf 'char size_of_%s[sizeof(%s)];\n' $(printf '%s ' "${structs[@]}" | sed 's/\([a-z0-9_]*\) /\1 \1 /g')
    } >"$folder/structs.c"
    # shellcheck disable=SC2086 -- the target's flags are words
    "${prefix}gcc" $target -Inode_firmware/include -Inode_firmware/core -fdata-sections -c "$folder/structs.c" -o "$folder/structs.o"
    printf '%-34s %9s\n' "struct, in the caller's RAM" bytes
    "${prefix}nm" -S "$folder/structs.o" | while read -r _ size _ name; do
        printf '  %-32s %9d\n' "${name#size_of_}" "$((16#$size))"
    done
}

# linked TITLE PRESET PROGRAM: what a program that does nothing else takes of a Cortex-M4's flash, by object file.
linked() {
    local map=build/$2/tests/m4/$3.map size file name
    local -A objects=()
    quiet cmake -S node_firmware --preset "$2"
    quiet ninja -C "build/$2" "$3"
    while read -r size file; do
        name=${file##*/}
        name=${name/.a(/: }
        objects[${name%.o*}]=$((${objects[${name%.o*}]:-0} + size))
    done < <(sed '1,/^Linker script/d' "$map" | awk '
        /^ [.][^ ]+$/ { held = $0; next } # a long name has a line of its own
        { $0 = held $0; held = "" }
        /^ [.](text|rodata|data)/ && NF == 4 { print $3, $4 }')
    printf '\n%-34s %9s\n' "$1" "$(arm-none-eabi-size "${map%.map}" | awk 'NR == 2 { print $1 + $2 }')"
    for name in "${!objects[@]}"; do
        printf '  %-32s %9d\n' "$name" "${objects[$name]}"
    done | sort
}

mkdir -p build
measure host build/size-host "" ""
measure Cortex-M4 build/size-m4 arm-none-eabi- "-mcpu=cortex-m4 -mthumb -mfloat-abi=hard -mfpu=fpv4-sp-d16" --preset m4
linked "engine, linked" m4 m4_size_nn
linked "engine, linked, without DSP" m4-c99 m4_size_nn
linked "engine, linked, only dense layers" m4-fc m4_size_nn
linked "audio front end, linked" m4 m4_size_frontend
