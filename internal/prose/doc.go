// Command prose checks the language of comments, messages and documents.
//
// Without flags it prints, for each package and each set of documents, how often
// certain words occur in 1,000 words. With -check it fails if a word of the list in
// words.go occurs more often than baseline.txt allows. With -list it prints every
// occurrence, and with -write it lowers the baseline to the present number of
// occurrences.
//
//	prose [-check | -list | -write] [directory]
package main
