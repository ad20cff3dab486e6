#!/usr/bin/env bash
# Opens an issue, unless one of the same title is open: issue.sh TITLE TEXT
set -euo pipefail
titles=$(gh issue list --state open --limit 1000 --json title --jq '.[].title')
if grep --fixed-strings --line-regexp --quiet -- "$1" <<< "$titles"; then
    echo "An issue of this title is open: $1"
else
    gh issue create --title "$1" --body "$2"
fi
