# Completion of drover for bash 4 and later; needs nothing else.
_drover() {
	local line=${COMP_LINE:0:COMP_POINT} words out directive value rest typed
	read -ra words <<<"$line"
	[[ $line == *[[:space:]] ]] && words+=("")
	typed=${words[-1]}
	COMPREPLY=()
	out=$("${words[0]}" __complete "${words[@]:1}" 2>/dev/null) || return
	directive=${out##*:}
	# Bash takes what follows a colon or an equals sign for a word of its own.
	local current=${COMP_WORDS[COMP_CWORD]} before
	[[ $current == [:=] ]] && current=
	before=${typed%"$current"}
	while IFS=$'\t' read -r value rest; do
		if [[ $value != :* && -n $value && $value == "$typed"* ]]; then
			printf -v value %q "${value#"$before"}"
			COMPREPLY+=("$value")
		fi
	done <<<"$out"
	if ((directive & 2)); then compopt -o nospace; fi
	if ((${#COMPREPLY[@]} == 0 && !(directive & 4))); then compopt -o default; fi
}
complete -F _drover drover
