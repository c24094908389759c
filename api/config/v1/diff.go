package configv1

// Diff returns the update that leads from before to after; both are sorted by key.
func Diff(before, after []Resource) Update {
	var u Update
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].Compare(after[0].Key) < 0:
			u.Removed = append(u.Removed, before[0].Key)
			before = before[1:]
		case len(before) == 0 || before[0].Compare(after[0].Key) > 0:
			u.Set = append(u.Set, after[0])
			after = after[1:]
		default:
			if before[0].Version != after[0].Version {
				u.Set = append(u.Set, after[0])
			}
			before, after = before[1:], after[1:]
		}
	}
	return u
}
