package corefile

// ForTrial returns the Corefile as it can be started in a pod of its own: without bind lines, for that pod has other
// addresses. Text that does not parse is returned as it is: starting it says what is wrong.
func ForTrial(text string) string {
	f, err := parse(text)
	if err != nil {
		return text
	}
	var drop []lines
	for _, b := range f.blocks {
		for _, d := range b.directives {
			if l := d.lines(); d.name == "bind" && f.words(l) == 1+len(d.args) {
				drop = append(drop, l)
			}
		}
	}
	return f.without(drop...)
}

func (d directive) lines() lines {
	if n := len(d.args); n > 0 {
		return lines{d.line, d.args[n-1].end}
	}
	return lines{d.line, d.line}
}

// words counts the words that are on any of the lines.
func (f *file) words(l lines) int {
	n := 0
	for _, t := range f.tokens {
		if t.end >= l.first && t.line <= l.last {
			n++
		}
	}
	return n
}
